"""Headers read from bytes say what pydicom says of the same file, or nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medssl_monai.ingest.dicom import decode, pixels
from medssl_monai.ingest.dicom import header as header_module
from medssl_monai.ingest.dicom.fast_header import asked_for, plain_header
from medssl_monai.ingest.dicom.header import HEAD_BYTES, HEADER_TAGS, read_frames, sniff_dicom
from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.store.verdicts import Reason, RejectedError
from tests.ingest.dicom_fixtures import phantom, write_series
from tests.ingest.test_ingest_fuzz import mutated

FIELDS = asked_for(HEADER_TAGS)
NAMES = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of this package's tests and pydicom's, and one with nested sequences of undefined length."""
    folder = tmp_path_factory.mktemp("plain")
    made = write_series(folder / "made", phantom(2))
    nested: Any = pydicom.dcmread(made[0])
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.Rows = "1", 77  # an inner tag is not the image's
    outer.ConceptNameCodeSequence = Sequence([inner, inner])
    nested.RequestAttributesSequence = Sequence([outer])
    for element in (nested["RequestAttributesSequence"], outer["ConceptNameCodeSequence"]):
        element.is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    nested.save_as(folder / "nested.dcm")
    assert b"\xfe\xff\xdd\xe0" in (folder / "nested.dcm").read_bytes()
    names = (*NAMES, "MR_small_implicit.dcm")
    return [made[0], folder / "nested.dcm", *(Path(str(get_testdata_file(name, download=False))) for name in names)]


def header(path: Path, head: bytes | None) -> list[Instance] | tuple[Reason, str]:
    try:
        return read_frames(path, path, head)
    except RejectedError as rejection:
        return rejection.reason, rejection.detail


def image_facts(instance: Instance) -> object:
    """What two ways to read pixels must agree on."""
    try:
        image = pixels.read_pixels(instance)
    except RejectedError as rejection:
        return rejection.reason, rejection.detail
    return image.pixels.dtype, image.pixels.shape, image.pixels.tobytes(), image.flags


def test_ordinary_files_are_read_so(seeds: list[Path]) -> None:
    read = {path.name: plain_header(path.read_bytes()[:HEAD_BYTES], FIELDS, whole=False) for path in seeds}
    assert {name for name, found in read.items() if found is None} <= {"MR_small_bigendian.dcm"}
    nested = read["nested.dcm"]
    assert nested is not None
    assert nested.values["Rows"] != ["77"]
    assert "ModalityLUTSequence" not in nested


def test_a_header_that_does_not_end_in_the_bytes_says_nothing(seeds: list[Path]) -> None:
    content = seeds[0].read_bytes()
    whole = plain_header(content, FIELDS, whole=False)
    assert whole is not None
    start = content.rindex(b"\xe0\x7f\x10\x00")
    for end in range(0, start + 8, 7):
        assert plain_header(content[:end], FIELDS, whole=False) is None
    assert plain_header(content[: start + 12], FIELDS, whole=False) == whole


def test_mutated_files(seeds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(5)
    path, plain = tmp_path / "mutated.dcm", decode.plain
    ordinary = 0
    for number in range(400):
        path.write_bytes(mutated(draw.choice(seeds).read_bytes(), draw) if number else seeds[0].read_bytes())
        head = path.read_bytes()[:HEAD_BYTES]
        if not sniff_dicom(head):
            continue
        mine, theirs = header(path, head), header(path, None)
        assert mine == theirs, number
        ordinary += plain_header(head, FIELDS, whole=False) is not None
        if not isinstance(mine, list) or mine[0].frame is not None:
            continue
        if plain(path) is not None:
            with monkeypatch.context() as patched:
                patched.setattr(pixels, "plain", lambda _: None)
                patched.setattr(pixels, "_simple_hu", lambda *_: None)
                slow = image_facts(mine[0])
            assert image_facts(mine[0]) == slow, number
    assert ordinary > 60
    assert header_module._HEADER_FIELDS == FIELDS


def test_jpeg_2000(seeds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As pydicom decodes it; a codestream that contradicts the header is left to pydicom."""
    path = next(path for path in seeds if "jp2k" in path.name)
    contradicting = Path(str(get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)))
    assert decode.plain(path) is not None
    assert decode.plain(contradicting) is None
    (instance,) = read_frames(path)
    mine = image_facts(instance)
    monkeypatch.setattr(pixels, "plain", lambda _: None)
    assert image_facts(instance) == mine
