import math
from typing import Any

import pytest
import yaml

from medssl_monai.errors import ConfigError
from medssl_monai.resources import resource_dir
from medssl_monai.windows import fixed_limits, parse_windows, resolve_window


def test_every_preset_is_complete() -> None:
    table = yaml.safe_load((resource_dir("configs") / "windows.yaml").read_text(encoding="utf-8"))
    assert {"lung", "mediastinum", "soft_tissue", "abdomen", "bone", "brain", "angio", "wide", "full"} <= set(table)
    for name, row in table.items():
        assert len(row["use"]) > 10
        assert set(row) in ({"level", "width", "use"}, {"bounds", "use"}, {"windows", "use"}), name
    assert resolve_window("wide") == (-1000, 1000)
    assert resolve_window("full") == (-1024, 3071)
    assert resolve_window("lung") == (-1350, 150)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("lungs", "lungs.*lung, mediastinum"),
        ([100, -100], "low must be below high"),
        ([0, math.inf], "finite"),
        ([], "empty"),
        ([["lung"]], "preset's name or a pair"),
        (["lung", 3], "preset's name or a pair"),
        (["lung", "medgemma"], "'medgemma' is several"),
    ],
)
def test_bad_windows_are_refused(window: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_windows(window)


def test_fixed_limits_are_plain_numbers_and_adaptive_windows_have_none() -> None:
    assert fixed_limits("wide") == [[-1000.0, 1000.0]]
    several: list[str | list[float]] = ["lung", [0, 80]]
    assert fixed_limits(several) == [[-1350.0, 150.0], [0.0, 80.0]]
    assert fixed_limits("medgemma") == [[-1024.0, 1024.0], [-135.0, 215.0], [0.0, 80.0]]
    assert fixed_limits(["lung", "ct_fm"]) == [[-1350.0, 150.0], [-1024.0, 2048.0]]
    assert resolve_window("medsam") == resolve_window("soft_tissue")
    assert fixed_limits(["lung", "tags"]) is None
    with pytest.raises(ConfigError, match="depends on the image"):
        resolve_window("minmax")
