"""Programs whose processes must end with them."""

import subprocess
import sys
import time
from pathlib import Path

SLEEP = r"""
import os, time

def sleep(item, **options):
    os.write(1, f"{os.getpid()}\n".encode())  # one call: lines of two processes do not mix
    time.sleep(120)
"""


def left_of_a_killed(program: str, folder: Path) -> list[int]:
    """Process numbers that are left 20 s after a program was killed, in two processes of which `sleep.sleep` ran."""
    (folder / "program.py").write_text(program)
    (folder / "sleep.py").write_text(SLEEP)
    running = subprocess.Popen([sys.executable, folder / "program.py"], stdout=subprocess.PIPE, text=True)
    with running:
        assert running.stdout is not None
        left = [int(running.stdout.readline()) for _ in range(2)]
        running.kill()
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [process for process in left if Path(f"/proc/{process}").exists()]
    return left
