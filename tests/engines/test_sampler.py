"""Which slices make up which step."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.engines.sampler import StepBatchSampler
from medssl_monai.engines.slice_order import SliceOrder
from medssl_monai.errors import ConfigError
from tests.golden import fill

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.mark.parametrize("case", range(3))
def test_order_is_that_of_sparks_sampler(case: int) -> None:
    meta, arrays = fill.load(GOLDEN / "spark_sampler.npz")
    settings = meta["cases"][case]
    total = settings["iters_per_epoch"] * settings["glb_batch_size"]
    share = total // settings["world_size"]
    for epoch, row in enumerate(arrays[f"c{case}"]):
        length = settings["dataset_len"]
        order = SliceOrder(length, settings["seed"]).at(epoch, np.arange(total) % length).tolist()
        assert order[settings["rank"] * share :][:share] == row.tolist()


@given(length=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 5), start=st.integers(0, 30))
def test_starting_late_continues_the_same_sequence(length: int, batch: int, seed: int, start: int) -> None:
    whole = list(itertools.islice(StepBatchSampler(length, batch, seed), start + 5))
    late = list(itertools.islice(StepBatchSampler(length, batch, seed, start_step=start), 5))
    assert late == whole[start:]


@given(length=st.integers(1, 40), batch=st.integers(1, 12), shuffle=st.booleans())
def test_a_pass_sees_every_slice_in_full_batches(length: int, batch: int, shuffle: bool) -> None:
    sampler = StepBatchSampler(length, batch, 0, shuffle)
    steps = list(itertools.islice(sampler, sampler.steps_per_pass + 1))
    seen = [key.index for step in steps[:-1] for key in step]
    assert set(seen) == set(range(length))
    assert {len(step) for step in steps} == {batch}
    assert {key.epoch for step in steps[:-1] for key in step} == {0}
    assert {key.epoch for key in steps[-1]} == {1}


@pytest.mark.parametrize("window", [None, 64, 200])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_of_one(window: int | None, processes: int) -> None:
    def first(count: int, rank: int) -> list[list[int]]:
        sampler = StepBatchSampler(1001, 8, seed=3, processes=count, rank=rank, shuffle_window=window)
        return [[key.index for key in step] for step in itertools.islice(sampler, 130)]

    shares = [first(processes, rank) for rank in range(processes)]
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == first(1, 0)


@pytest.mark.parametrize(("window", "batch"), [(63, 4), (64, 65)])
def test_a_window_smaller_than_a_batch_is_refused(window: int, batch: int) -> None:
    with pytest.raises(ConfigError, match=f"shuffle_window {window} must be at least"):
        StepBatchSampler(1000, batch, 0, shuffle_window=window)


@pytest.mark.parametrize(("length", "batch"), [(0, 4), (4, 0)])
def test_nothing_to_sample_is_refused(length: int, batch: int) -> None:
    with pytest.raises(ConfigError, match="at least one slice"):
        StepBatchSampler(length, batch, 0)
