"""Memory hardly grows with the number of series: only headers are kept, and they share what they have in common."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ingest.dicom_fixtures import KEY, phantom, write_series

PROGRAM = """
import sys
from pathlib import Path
from medssl_monai.ingest import build_store
build_store([Path(sys.argv[1])], Path(sys.argv[2]), key={key!r}, progress=False)
# ru_maxrss of a child begins at its parent's peak, which hides everything below.
(line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
print(line.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_times_the_series(tmp_path: Path) -> None:
    peaks = []
    for count in (6, 60):
        for number in range(count):
            write_series(tmp_path / str(count) / str(number), phantom(40, seed=number), series=f"{number}")
        folders = [str(tmp_path / str(count)), str(tmp_path / f"store {count}")]
        command = [sys.executable, "-c", PROGRAM.format(key=KEY), *folders]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert peaks[1] < 1.10 * peaks[0]
