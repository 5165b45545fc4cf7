"""The frames of arrays, read as blosc2 reads them."""

from pathlib import Path

import blosc2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medssl_monai.store.frames import HEAD_BYTES, read_frame, read_places, unpack

VOLUMES = hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12), elements=st.integers(-3, 3))


def frame_of(volume: np.ndarray, path: Path, kind: type = np.int16, slices: int = 1) -> bytes:
    """The file of an array as stores have it, whole slices of zeros among them."""
    chunk = (slices, *volume.shape[1:])
    array = blosc2.empty(
        volume.shape, dtype=kind, chunks=chunk, blocks=chunk, urlpath=str(path), mode="w", contiguous=True
    )
    array[:] = volume.astype(kind)
    del array
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


@settings(max_examples=60, deadline=None)
@given(volume=VOLUMES)
def test_slices_equal_those_of_blosc2(folder: Path, volume: np.ndarray) -> None:
    frame_of(volume, folder / "a.b2nd")
    again = blosc2.open(str(folder / "a.b2nd"), mode="a")
    for number in range(0, len(volume), 2):  # written again: longer slices move to the end of the file
        volume[number] = np.random.default_rng(number).integers(-2000, 2000, volume.shape[1:])
        again.schunk.update_data(number, np.ascontiguousarray(volume[number]), copy=True)
    del again
    content = (folder / "a.b2nd").read_bytes()
    frame = read_frame(content[:HEAD_BYTES])
    assert frame.shape == volume.shape and frame.frame_bytes == len(content)
    places = read_places(frame, content[frame.offsets_at :])
    for number, (begin, end) in enumerate(places):
        pixels = np.zeros(volume.shape[1:], np.int16)
        if end > begin:
            unpack(content[begin:end], pixels)
        assert np.array_equal(pixels, volume[number])


def test_zeros_take_no_place(folder: Path) -> None:
    volume = np.zeros((3, 8, 8), np.int16)
    volume[1] = 7
    content = frame_of(volume, folder / "zeros.b2nd")
    frame = read_frame(content)
    places = read_places(frame, content[frame.offsets_at :])
    assert places[0].tolist() == places[2].tolist() == [0, 0]
    assert places[1, 1] > places[1, 0] > 0


def test_a_slice_that_was_never_written_is_refused(folder: Path) -> None:
    blosc2.uninit(
        (2, 8, 8), dtype=np.int16, chunks=(1, 8, 8), blocks=(1, 8, 8), urlpath=str(folder / "un.b2nd"), mode="w"
    )
    content = (folder / "un.b2nd").read_bytes()
    frame = read_frame(content)
    with pytest.raises(ValueError, match="never written"):
        read_places(frame, content[frame.offsets_at :])


@pytest.mark.parametrize(
    ("kind", "slices", "shape"), [(np.int32, 1, (2, 8, 8)), (np.uint16, 1, (2, 8, 8)), (np.int16, 2, (2, 8, 8))]
)
def test_other_arrays_are_refused(kind: type, slices: int, shape: tuple[int, ...], folder: Path) -> None:
    content = frame_of(np.ones(shape, np.int16), folder / "other.b2nd", kind, slices)
    with pytest.raises(ValueError, match="no array of slices"):
        read_frame(content)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_the_bytes_are_only_a_value_error_comes(folder: Path, data: st.DataObject) -> None:
    path = folder / "whole.b2nd"
    if not path.exists():
        frame_of(np.arange(3 * 64, dtype=np.int16).reshape(3, 8, 8), path)
    content = bytearray(path.read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    for place in data.draw(st.lists(st.integers(11, max(len(content), 12) - 1), max_size=4)):
        if place < len(content):
            content[place] = data.draw(st.integers(0, 255))
    try:
        frame = read_frame(bytes(content[:HEAD_BYTES]))
        if frame.frame_bytes > 10_000 or frame.slice_bytes * frame.shape[0] > 1_000_000:
            return  # what a server would cut off; and an array that the test's memory need not hold
        for begin, end in read_places(frame, bytes(content[frame.offsets_at :])):
            if end > begin:
                unpack(bytes(content[begin:end]), np.empty(frame.shape[1:], np.int16))
    except ValueError:
        pass
