"""Stores that somebody hands over, and stores whose bits flipped: nothing is executed, nothing read as other values."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medssl_monai.cli import verify as verify_verb
from medssl_monai.errors import StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.verify import damaged_series
from tests.ingest.dicom_fixtures import KEY, phantom, tree_bytes, write_series


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_series(tmp_path / "in" / name, phantom(seed=ord(name)), series=name)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    return tmp_path / "store"


def first_array(store: Path) -> Path:
    return min((store / "series").glob("*.b2nd"))


def expression(path: Path) -> None:
    other = blosc2.asarray(np.zeros((6, 20, 16), np.int16), urlpath=str(path.with_name("other.b2nd")), mode="w")
    (other + 1).save(urlpath=str(path))


def attack(inputs: Any, output: Any, offset: Any) -> None:
    raise SystemExit("executed")


def function(path: Path) -> None:
    other = blosc2.asarray(np.zeros((6, 20, 16), np.int16), urlpath=str(path.with_name("other.b2nd")), mode="w")
    blosc2.lazyudf(attack, (other,), np.int16).save(urlpath=str(path))


def note(path: Path) -> None:
    array = blosc2.asarray(np.zeros((6, 20, 16), np.int16), urlpath=str(path), mode="w")
    array.schunk.vlmeta["x"] = 1


def metalayer(path: Path) -> None:
    blosc2.asarray(np.zeros((6, 20, 16), np.int16), urlpath=str(path), mode="w", meta={"x": 1})


def floats(path: Path) -> None:
    blosc2.asarray(np.zeros((6, 20, 16)), urlpath=str(path), mode="w")


def bytes_alone(path: Path) -> None:
    blosc2.SChunk(chunksize=1000, data=bytes(1000), urlpath=str(path), mode="w")


def text(path: Path) -> None:
    path.write_text("no array")


@pytest.mark.parametrize("make", [expression, function, note, metalayer, floats, bytes_alone, text])
def test_arrays_that_are_more_than_numbers_are_not_opened(store: Path, make: Any) -> None:
    path = first_array(store)
    path.unlink()
    make(path)
    opened = SliceStore(store)
    with pytest.raises(StoreError, match="ingest its source again"):
        opened.read(path.stem, 0)
    with pytest.raises(StoreError, match="ingest its source again"):
        opened.read_series(path.stem)


def verify(*arguments: object) -> tuple[str, int]:
    app = typer.Typer()
    app.command()(verify_verb.run)
    result = CliRunner().invoke(app, [str(one) for one in arguments], standalone_mode=False, catch_exceptions=False)
    return result.output, result.return_value


def test_a_flipped_bit_is_found_and_healed(store: Path, tmp_path: Path) -> None:
    draw = random.Random(3)
    whole = tree_bytes(store)
    assert verify(store) == (f"{store}: 2 series, all as written\n", 0)
    for number in range(12):
        broken = shutil.copytree(store, tmp_path / f"broken{number}")
        path = draw.choice(sorted((broken / "series").iterdir()))
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(content))
        if path.suffix == ".b2nd":
            assert list(damaged_series(SliceStore(broken))) == [path.stem]
            said, code = verify(broken, "--remove")
            assert code == 1
            assert f"{path.stem}: its array holds other bytes than were written" in said
            build_store([tmp_path / "in"], broken, key=KEY, progress=False)
            assert tree_bytes(broken) == whole


def test_a_damaged_index_is_found(store: Path) -> None:
    index = store / "index.parquet"
    content = bytearray(index.read_bytes())
    content[40] ^= 1
    index.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="its index, or the set of its series, is not what ingestion wrote"):
        verify(store)


def test_a_missing_array_is_found(store: Path) -> None:
    path = first_array(store)
    path.unlink()
    assert damaged_series(SliceStore(store)) == {path.stem: "its array is missing"}


def test_slices_that_cannot_be_decompressed(store: Path) -> None:
    path = first_array(store)
    content = bytearray(path.read_bytes())
    content[200:-300] = bytes(len(content) - 500)
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="ingest its source again"):
        SliceStore(store).read(path.stem, 0)
