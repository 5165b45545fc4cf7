"""Picture files: what is taken as which grey values, what is not decoded at all, and whose they are."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medssl_monai.errors import InputError, NoImagesError, NotHounsfieldError
from medssl_monai.ingest.volumes.patients import NamedPatients
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
    assert judged(summary) == {"accepted": 4, "repaired": 1, "UNDECODABLE": 1}
    values = sorted(int(store.read(found["series_id"], 0).max()) for found in store.select())
    assert values[-1] == 20400
    assert values[0] == round(0.413 * 204), "the luma of blue and red"
    assert 204 - 8 <= values[1] <= 205
    assert {(found["modality"], found["plane"]) for found in store.select()} == {("OT", "unknown")}
    assert {found["flags"] for found in store.select()} == {
        "no_geometry,patient_unknown",
        "colour,no_geometry,patient_unknown",
        "lossy,no_geometry,patient_unknown",
    }
    with pytest.raises(NoImagesError, match=r"no CT images among 6 files: each is a picture.*--config pictures"):
        bench.run(modality="CT")
    named, _ = bench.run(bench.source / "a.png", modality="DX")
    assert named.select()[0]["modality"] == "DX"
    item = {"image": named.read(named.series_ids[0], 0)[None], "modality": "DX"}
    with pytest.raises(NotHounsfieldError):
        CTWindowd("image", "lung")(item)


RAMP = np.arange(0, 240, 2, dtype=np.uint8).reshape(10, 12)


def _saved(folder: Path, name: str, image: Image.Image) -> Path:
    image.save(folder / name)
    return folder / name


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "tiff"])
@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_grey_values_are_the_same_in_every_format_and_mode(tmp_path: Path, ending: str, mode: str) -> None:
    picture = read_picture(_saved(tmp_path, f"a.{ending}", Image.fromarray(RAMP).convert(mode)))
    assert np.array_equal(picture.pixels, RAMP)
    assert picture == (picture.pixels, (127.5, 255.0), frozenset())


@pytest.mark.parametrize(
    ("alpha", "colour", "flags"),
    [(255, False, set()), (90, False, {"transparent"}), (255, True, {"colour"}), (90, True, {"colour", "transparent"})],
)
def test_colour_becomes_luma_and_transparency_is_dropped(
    tmp_path: Path, alpha: int, colour: bool, flags: set[str]
) -> None:
    red, green, blue = (RAMP, RAMP // 2 if colour else RAMP, RAMP)
    image = Image.fromarray(np.dstack([red, green, blue, np.full_like(RAMP, alpha)]))
    picture = read_picture(_saved(tmp_path, "a.png", image))
    luma = 0.299 * red.astype(float) + 0.587 * green + 0.114 * blue
    assert np.abs(picture.pixels - luma).max() <= 0.5 + 1e-6
    assert picture.flags == flags


def test_sixteen_bits_have_their_own_range(tmp_path: Path) -> None:
    deep = RAMP.astype(np.uint16) * 17 + 5
    for name, image in (("a.png", deep), ("a.tif", deep)):
        picture = read_picture(_saved(tmp_path, name, Image.fromarray(image)))
        assert np.array_equal(picture.pixels, deep)
        assert picture.window == ((5 + deep.max()) / 2, deep.max() - 5.0)
    full = read_picture(_saved(tmp_path, "b.png", Image.fromarray(deep * 10 + 20000)))
    assert full.flags == {"lowered"}
    assert full.window[0] - full.window[1] / 2 == full.pixels.min()


@pytest.mark.parametrize(("name", "content"), [("a.jpg", "JPEG"), ("a.png", "JPEG"), ("a.tif", "TIFF")])
def test_loss_is_told_by_content_not_by_name(tmp_path: Path, name: str, content: str) -> None:
    how = {"compression": "jpeg"} if content == "TIFF" else {}
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / name, content, **how)
    assert "lossy" in read_picture(tmp_path / name).flags


def test_what_has_no_single_grey_picture_is_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(RAMP).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.fromarray(RAMP)])
    Image.fromarray(np.where(RAMP.mean() < RAMP, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
    refused = {
        "float.tif": "values of type float32",
        "pages.tif": "holds 2 pictures",
        "mask.png": "has only the grey values 0, 255, as a mask or a label map has; take it out",
    }
    for name, words in refused.items():
        with pytest.raises(RejectedError, match=words):
            read_picture(tmp_path / name)


def _named(bench: Bench, *names: str) -> None:
    for number, name in enumerate(names):
        (bench.source / name).parent.mkdir(exist_ok=True)
        _saved(bench.source, name, Image.fromarray(RAMP + np.uint8(number)))


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        (r"^([0-9.]+)_", "2 patients and 1 series of unknown patients"),
        (r"(?P<patient>[0-9]+\.[0-9]+)_(\d)", "2 patients and 1 series of unknown patients"),
        (r"/([^/]+)/[^/]+$", "2 patients"),
        (None, "4 series of unknown patients"),
    ],
)
def test_patients_by_a_pattern_in_the_names(tmp_path: Path, pattern: str | None, told: str) -> None:
    bench = Bench(tmp_path)
    _named(bench, "1.2_1.png", "1.2_2.png", "x/1.3_1.png", "x/other.png")
    store, summary = bench.run(patients=NamedPatients(pattern))
    assert summary.patients == store.patients_told() == told
    assert told in str(summary)
    assert ("patient_unknown" in store.select()[0]["flags"]) or pattern is not None
    assert len({row["patient"] for row in store.select()}) == sum(map(int, re.findall(r"\d", told)))


def test_patients_by_a_table(tmp_path: Path) -> None:
    """Paths from the table's folder, folders, and bare names; what it does not name falls to the pattern."""
    bench = Bench(tmp_path)
    _named(bench, "1.png", "2.png", "x/3.png", "x/4.png", "y/5.png")
    table = tmp_path / "patients.csv"
    table.write_text("source,patient,note\nin/1.png,A,\n2.png,A,\nin/x,B,\n")
    store, _ = bench.run(patients=NamedPatients(table=table))
    assert store.patients_told() == "2 patients and 1 series of unknown patients"
    store, _ = bench.run(patients=NamedPatients(r"^(\d)", table))
    assert store.patients_told() == "3 patients"


def test_naming_patients_later_changes_what_is_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    _named(bench, "a_1.png", "a_2.png", "b_1.png")
    fresh, _ = bench.run(patients=NamedPatients(r"^(\w)_"))
    for patients, told in (
        (None, "3 series of unknown patients"),
        (NamedPatients(r"^(\w)_"), "2 patients"),
    ):
        bench.runs = 5
        assert bench.run(patients=patients)[1].patients == told
    bench.runs = 5
    store, summary = bench.run()
    assert (summary.patients, summary.added) == ("2 patients", 0), "who names none leaves it"
    assert store.fingerprint == fresh.fingerprint


@pytest.mark.parametrize(
    ("pattern", "table", "words"),
    [
        ("(", None, "no regular expression"),
        ("a+", None, "must have a group"),
        (None, "source,name\na.png,A\n", "row 1: needs a column source or path"),
        (None, "source,patient\na.png,A\na.png,B\n", "row 2: its source has another patient above"),
    ],
)
def test_patients_that_cannot_be_named(tmp_path: Path, pattern: str | None, table: str | None, words: str) -> None:
    if table is not None:
        (tmp_path / "t.csv").write_text(table)
    with pytest.raises(InputError, match=words):
        NamedPatients(pattern, None if table is None else tmp_path / "t.csv")
    with pytest.raises(InputError, match="cannot be read"):
        NamedPatients(None, tmp_path / "missing.csv")
