"""Freed memory stays with the process: what a step frees, the next one need not fetch from the system again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from medssl_monai.engines.resumable import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    return [torch.zeros(12 << 20) for _ in range(4)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.slow
def test_freed_memory_is_not_fetched_again() -> None:
    faults = {}
    for how in ("keep", "give back"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
        faults[how] = int(run.stdout)
    assert faults["keep"] < 0.05 * faults["give back"]
