"""PNG and JPEG pictures: what is taken, and what is not decoded at all."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from medssl_monai.errors import NoImagesError, NotHounsfieldError
from medssl_monai.ingest.volumes.pictures import read_picture
from medssl_monai.store.verdicts import RejectedError
from medssl_monai.transforms.ct_window import CTWindowd
from tests.ingest.matrix import Bench, judged


def test_pictures_that_claim_to_be_huge_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers of a valid small PNG, changed with a right checksum: 40,000 × 40,000 pixels, or a chunk of 2 GB."""

    def decode(*_: object) -> None:
        pytest.fail("was decoded")

    assert cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 16), np.uint8))
    monkeypatch.setattr(cv2, "imdecode", decode)
    content = (tmp_path / "a.png").read_bytes()
    header = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + content[24:29]
    large = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    chunk = content[:33] + (2**31 - 1).to_bytes(4, "big") + content[37:]
    for made, words in ((large, "claims more than"), (chunk, "truncated or damaged")):
        (tmp_path / "b.png").write_bytes(made)
        with pytest.raises(RejectedError, match=words):
            read_picture(tmp_path / "b.png")


def test_pictures_are_never_hounsfield(tmp_path: Path) -> None:
    """PNG and JPEG: their modality is recorded, and windows in HU refuse them."""
    bench = Bench(tmp_path)
    grey = (np.add.outer(np.arange(40), np.arange(30)) * 3).astype(np.uint8)
    assert cv2.imwrite(str(bench.source / "a.png"), grey)
    assert cv2.imwrite(str(bench.source / "deep.png"), grey.astype(np.uint16) * 100)
    assert cv2.imwrite(str(bench.source / "b.jpg"), grey)
    assert cv2.imwrite(str(bench.source / "red.png"), np.dstack([grey, grey * 0, grey]))
    assert cv2.imwrite(str(bench.source / "grey.png"), np.dstack([grey + 1] * 3))
    (bench.source / "cut.png").write_bytes((bench.source / "a.png").read_bytes()[:60])
    store, summary = bench.run()
    assert judged(summary) == {"accepted": 4, "COLOUR": 1, "UNDECODABLE": 1}
    values = sorted(int(store.read(found["series_id"], 0).max()) for found in store.select())
    assert values[-1] == 20400
    assert 204 - 8 <= values[0] <= 205
    assert {(found["modality"], found["plane"]) for found in store.select()} == {("OT", "unknown")}
    assert {found["flags"] for found in store.select()} == {
        "no_geometry,patient_unknown",
        "lossy,no_geometry,patient_unknown",
    }
    with pytest.raises(NoImagesError, match="6 NOT_HOUNSFIELD"):
        bench.run(modality="CT")
    named, _ = bench.run(bench.source / "a.png", modality="DX")
    assert named.select()[0]["modality"] == "DX"
    item = {"image": named.read(named.series_ids[0], 0)[None], "modality": "DX"}
    with pytest.raises(NotHounsfieldError):
        CTWindowd("image", "lung")(item)
