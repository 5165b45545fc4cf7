"""The order of a pass: a permutation without a table, uniform, and in windows where a disk should read in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medssl_monai.engines.slice_order import BLOCK, TABLE_LIMIT, SliceOrder, keyed_permutation, order_kind

ENOUGH = 1e-4
"""Least probability of a fair draw; the seeds are fixed, so a test does not fail by chance."""


@given(length=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 9))
def test_every_length_is_permuted(length: int, seed: int, epoch: int) -> None:
    images = keyed_permutation(length, seed, epoch)(np.arange(length))
    assert np.array_equal(np.sort(images), np.arange(length))


def test_a_large_one_is_a_permutation_too() -> None:
    length = 1_234_567
    assert np.array_equal(np.sort(keyed_permutation(length, 5)(np.arange(length))), np.arange(length))


def test_numbers_do_not_depend_on_how_many_are_asked_for() -> None:
    length = 10**7
    permuted = keyed_permutation(length, 1, 2)
    together = permuted(np.arange(500, 700))
    assert together.tolist() == [permuted(np.array([number])).item() for number in range(500, 700)]
    assert len(set(together.tolist())) == 200
    assert together.min() >= 0 and together.max() < length


def test_every_slice_comes_everywhere_equally_often() -> None:
    length, passes = 24, 6000
    counts = np.zeros((length, length))
    for epoch in range(passes):
        counts[np.arange(length), keyed_permutation(length, 0, epoch)(np.arange(length))] += 1
    # Rows and columns have fixed sums, so (n - 1)² are free.
    deviation = ((counts - passes / length) ** 2 / (passes / length)).sum()
    assert ENOUGH < stats.chi2.sf(deviation, (length - 1) ** 2) < 1 - ENOUGH


def test_all_orders_of_few_are_equally_frequent() -> None:
    passes = 12_000
    seen = [tuple(keyed_permutation(4, 1, epoch)(np.arange(4)).tolist()) for epoch in range(passes)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert ENOUGH < stats.chisquare(counts).pvalue < 1 - ENOUGH


def test_neighbours_and_passes_are_independent() -> None:
    length = 10**7
    positions = np.arange(200_000)
    first, second = (keyed_permutation(length, 0, epoch)(positions) for epoch in (0, 1))
    for one, other in ((first[:-1], first[1:]), (first, second), (first, positions)):
        assert abs(stats.pearsonr(one, other).statistic) < 4 / np.sqrt(len(one))
        cells = np.histogram2d(one, other, bins=20, range=[[0, length], [0, other.max() + 1]])[0]
        assert ENOUGH < stats.chi2_contingency(cells).pvalue < 1 - ENOUGH


@given(length=st.integers(1, 400), window=st.integers(BLOCK, 300), seed=st.integers(0, 5))
def test_windows_hold_every_slice_once(length: int, window: int, seed: int) -> None:
    order = SliceOrder(length, seed, window=window).at(1, np.arange(length))
    assert np.array_equal(np.sort(order), np.arange(length))


def test_a_window_reads_few_blocks_and_mixes_them() -> None:
    length, blocks = 100_000, 16
    order = SliceOrder(length, 0, window=blocks * BLOCK)
    for first in range(0, 10 * blocks * BLOCK, blocks * BLOCK):
        slices = order.at(0, np.arange(first, first + blocks * BLOCK))
        assert len(np.unique(slices // BLOCK)) == blocks
        assert len(np.unique(slices[:64] // BLOCK)) > blocks / 2
    assert not np.array_equal(order.at(0, np.arange(64)), order.at(1, np.arange(64)))


def test_few_slices_have_the_order_of_a_table_and_many_none() -> None:
    assert (order_kind(TABLE_LIMIT), order_kind(TABLE_LIMIT + 1)) == ("table", "keyed")
    with pytest.raises(AssertionError):  # the two differ
        np.testing.assert_array_equal(
            SliceOrder(50, 0, kind="table").at(0, np.arange(50)), SliceOrder(50, 0, kind="keyed").at(0, np.arange(50))
        )
