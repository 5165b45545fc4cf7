"""What thinning leaves is computed once and kept, by an encoder too; nothing else of a run moves."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from medssl_monai.atomic import write_bytes
from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.classify import thinning
from medssl_monai.classify.embedder import Embedder
from medssl_monai.classify.thinning import ThinnedSlices, thinned_slices
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.ingest import SliceStore
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.processes import leave_processes
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.redundancy import kept_slices, redundancy_rule


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "medssl-monai" / "redundancy"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rules that were computed."""
    calls: list[str] = []

    def counted(store: SliceStore, rule: Any, *others: Any) -> Any:
        calls.append(str(rule))
        return kept_slices(store, rule, *others)

    monkeypatch.setattr(thinning, "kept_slices", counted)
    return calls


def encoder_file(path: Path, seed: int = 0, **metadata: str) -> Path:
    torch.manual_seed(seed)
    export_encoder(resnet_encoder("resnet18"), path, metadata={"arch": "resnet18", "image_size": "64", **metadata})
    return path


def slices_of(thinned: ThinnedSlices) -> list[dict[str, Any]]:
    data = SliceDataset(thinned.store, thinned.filters, kept=thinned.kept)
    return [data.row(i) for i in range(len(data))]


def test_it_is_computed_once(
    phantom_store: SliceStore, cache: Path, computed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "medssl_monai")
    first = thinned_slices(phantom_store, None, "hash-12")
    rows = phantom_store.select()
    mask = kept_slices(phantom_store, redundancy_rule("hash-12"))
    left = [row for row, one in zip(rows, mask, strict=True) if one]
    assert 5 <= len(left) < 30
    assert [(row["series_id"], row["slice"]) for row in slices_of(first)] == [
        (r["series_id"], r["slice"]) for r in left
    ]
    assert f"redundancy hash-12: {len(left)} of 30 slices are left ({len(left) / 30:.0%}) for training" in caplog.text
    described = first.describe()
    assert (described["slices"], described["series"]) == (len(left), 5)
    assert described["left after thinning"] == f"{len(left)} of 30 slices, by hash-12"
    assert thinned_slices(SliceStore(phantom_store.path), None, "hash-12").digest == first.digest
    assert computed == ["hash-12"]
    # Other filters and rules are others; a damaged file is computed again.
    assert thinned_slices(phantom_store, None, "spacing-1mm").digest != first.digest
    thinned_slices(phantom_store, [["slice", ">", 0]], "hash-12")
    assert computed == ["hash-12", "spacing-1mm", "hash-12"]
    files = list(cache.iterdir())
    assert len(files) == 3
    for file in files:
        write_bytes(file, file.read_bytes()[:-3])
    assert thinned_slices(phantom_store, None, "hash-12").digest == first.digest
    assert len(computed) == 4
    none = thinned_slices(phantom_store)
    assert (none.kept, none.digest, len(slices_of(none))) == (None, None, 30)
    assert "left after thinning" not in none.describe()


def test_a_cache_that_cannot_be_written_is_told(
    phantom_store: SliceStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file in the place of the folder")
    assert thinned_slices(phantom_store, None, "hash-64").describe()["slices"] == 5
    assert "cannot be written" in caplog.text


def test_an_encoder_compares(phantom_store: SliceStore, cache: Path, computed: list[str], tmp_path: Path) -> None:
    weights = encoder_file(tmp_path / "encoder.safetensors", window='"lung"', mean="0.2", std="0.3")
    embedder = Embedder(weights)
    assert (embedder.window, embedder.image_size) == ("lung", 64)
    features = embedder.embed(phantom_store, phantom_store.select()).reshape(5, 6, -1)
    unit = features / np.linalg.norm(features, axis=2, keepdims=True)
    cosines = (unit[:, 1:] * unit[:, :-1]).sum(axis=2)
    bound = f"{np.median(cosines):.5f}"
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = thinned_slices(phantom_store, None, f"embedding-{bound}", weights)
    assert torch.equal(torch.get_rng_state(), before)
    expected = []
    for series in unit:
        last = None
        for vector in series:
            expected.append(last is None or vector @ last <= float(bound))
            last = vector if expected[-1] else last
    assert found.mask is not None
    assert found.mask.tolist() == expected
    assert 5 < np.count_nonzero(found.mask) < 30
    assert thinned_slices(phantom_store, None, f"embedding-{bound}", weights).digest == found.digest
    assert len(computed) == 1
    thinned_slices(phantom_store, None, f"embedding-{bound}", encoder_file(tmp_path / "other.safetensors", seed=1))
    assert len(computed) == 2


def test_encoders_that_cannot_compare(phantom_store: SliceStore, cache: Path, tmp_path: Path) -> None:
    pictures = encoder_file(tmp_path / "pictures.safetensors", window='"picture"', mean="0.3", std="0.3")
    with pytest.raises(ConfigError, match=r"redundancy_encoder: was trained on 8-bit pictures.* slices are Hounsfield"):
        thinned_slices(phantom_store, None, "embedding-0.9", pictures)
    with pytest.raises(
        ConfigError, match=r"none is given; give one .* as redundancy_encoder .* or take redundancy=hash-6"
    ):
        thinned_slices(phantom_store, None, "embedding-0.9")
    for rule in ("none", "hash-6"):
        with pytest.raises(
            ConfigError, match=f"only embedding-T uses an encoder, and redundancy is {rule}; leave it out"
        ):
            thinned_slices(phantom_store, None, rule, pictures)
    with pytest.raises(CheckpointError, match="missing"):
        thinned_slices(phantom_store, None, "embedding-0.9", tmp_path / "missing.safetensors")
    assert not cache.exists()


def in_a_process(rank: int, store: str, folder: str) -> None:
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache{rank}"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    Path(folder, f"{rank}.txt").write_text(str(thinned_slices(SliceStore(store), None, "hash-12").digest))
    leave_processes()


@pytest.mark.ddp
def test_of_two_processes_the_first_computes(phantom_store: SliceStore, cache: Path, tmp_path: Path) -> None:
    spawn(in_a_process, args=(str(phantom_store.path), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    alone = thinned_slices(phantom_store, None, "hash-12").digest
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == [alone] * 2
    assert [(tmp_path / f"cache{rank}").exists() for rank in range(2)] == [True, False]
