"""Trainings in processes of their own: what they return, raise and print."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medssl_monai.experiment.side_by_side import into_log, side_by_side


def doubled(item: int, threads: int) -> tuple[int, int, int]:
    if item < 0:
        raise ValueError(f"item {item}")
    return 2 * item, threads, os.getpid()


def test_each_item_is_worked_on_in_another_process() -> None:
    found = list(side_by_side(doubled, [1, 2, 3], 2))
    assert sorted(value for value, _, _ in found) == [2, 4, 6]
    assert {threads for _, threads, _ in found} == {max(1, (os.cpu_count() or 1) // 2)}
    assert os.getpid() not in {process for _, _, process in found}


def test_an_error_of_a_process_is_raised() -> None:
    with pytest.raises(ValueError, match="item -1"):
        list(side_by_side(doubled, [-1], 2))


SLEEP = """
import os, time

def sleep(item, threads):
    os.write(1, f"{os.getpid()}\\n".encode())  # one call: lines of two processes do not mix
    time.sleep(120)
"""

ORPHANS = """
from medssl_monai.experiment.side_by_side import side_by_side
from sleep import sleep

if __name__ == "__main__":
    list(side_by_side(sleep, range(2), 2))
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The same command carries on with the trainings, which must not go on elsewhere."""
    (tmp_path / "program.py").write_text(ORPHANS)
    (tmp_path / "sleep.py").write_text(SLEEP)
    program = subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True)
    with program:
        assert program.stdout is not None
        children = [int(program.stdout.readline()) for _ in range(2)]
        program.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_what_is_printed_goes_into_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.txt"
    for line in ("first", "second"):
        with into_log(path):
            print(line)
            logging.getLogger("medssl_monai").warning("said of the %s", line)
    assert path.read_text().split("\n")[:4] == ["first", "said of the first", "second", "said of the second"]
    assert "first" not in capsys.readouterr().out
    logging.getLogger("medssl_monai").warning("later")
    assert "later" not in path.read_text()
