"""Trainings in processes of their own: what they return, raise and print."""

import logging
import os
from pathlib import Path

import pytest

from medssl_monai.experiment.side_by_side import into_log, side_by_side
from tests.killed_parent import left_of_a_killed


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


ORPHANS = """
from medssl_monai.experiment.side_by_side import side_by_side
from sleep import sleep

if __name__ == "__main__":
    list(side_by_side(sleep, range(2), 2))
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """The same command carries on with the trainings, which must not go on elsewhere."""
    assert left_of_a_killed(ORPHANS, tmp_path) == []


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
