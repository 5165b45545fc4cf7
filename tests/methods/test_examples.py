"""The examples in the docstrings run."""

import doctest
from types import ModuleType

import pytest

from medssl_monai.methods import byol, moco, positives, shared_weights, spark, swav


@pytest.mark.parametrize(
    "module", [byol, moco, positives, shared_weights, spark, swav], ids=lambda module: module.__name__
)
def test_the_example_runs(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.failed == 0 and result.attempted >= 3
