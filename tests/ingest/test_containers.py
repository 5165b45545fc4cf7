"""Compressed and packed files: checked by their checksums, limited in what they unpack to, and each with a verdict."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medssl_monai.ingest import Reason
from medssl_monai.ingest.sources import inflate
from medssl_monai.store.verdicts import RejectedError
from tests.ingest.conftest import Ingest, only, rejections, volume
from tests.ingest.dicom_fixtures import dataset, phantom, write, write_series


def nifti_bytes(hu: np.ndarray) -> bytes:
    return bytes(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-0.9, -0.7, 2.5, 1])).to_bytes())  # type: ignore[no-untyped-call]


def flipped(content: bytes, keep: int) -> bytes:
    """Gzip data with one bit changed: as many bytes when unpacked, the first of them the same, and another checksum."""
    packed, start = gzip.compress(content, 6, mtime=0), 10
    for place in range(len(packed) // 2, len(packed) - 16):
        for bit in range(8):
            bad = bytearray(packed)
            bad[place] ^= 1 << bit
            try:
                unpacker = zlib.decompressobj(-15)
                found = unpacker.decompress(bytes(bad[start:]))
            except zlib.error:
                continue
            if unpacker.eof and len(found) == len(content) and found != content and found[:keep] == content[:keep]:
                return bytes(bad)
    raise AssertionError("no such bit")


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_series(tmp_path / "in" / "good", phantom())
    return tmp_path / "in"


def test_a_volume_that_fails_its_checksum(good: Path, run: Ingest) -> None:
    (good / "bad.nii.gz").write_bytes(flipped(nifti_bytes(phantom(12, 40, 40)), 400))
    store, summary = run()
    assert np.array_equal(volume(store), phantom())
    assert rejections(summary) == {Reason.UNREADABLE: 1}


def test_a_volume_without_the_end_of_its_data(good: Path, run: Ingest) -> None:
    (good / "bad.nii.gz").write_bytes(gzip.compress(nifti_bytes(phantom()))[:-6])
    _, summary = run()
    assert rejections(summary) == {Reason.UNREADABLE: 1}


def test_members_of_several_gzip_streams(tmp_path: Path, run: Ingest) -> None:
    content = nifti_bytes(phantom())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_bytes(
        gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + b"\0" * 8
    )
    store, _ = run()
    assert np.array_equal(volume(store), phantom())


@pytest.mark.parametrize("nested", [False, True])
def test_an_archive_that_fails_its_checksum(good: Path, run: Ingest, nested: bool) -> None:
    """None of its members can be trusted; those beside a nested one can."""
    series = {path.name: path.read_bytes() for path in write_series(good.parent / "b", phantom(3, seed=1), series="b")}
    bad = flipped(tar_of(series), 2000)
    outer = {"inner.tar.gz": bad, "c/one": b"text", "c/two": b"text too"}
    (good / "archive.tar.gz").write_bytes(gzip.compress(tar_of(outer)) if nested else bad)
    store, summary = run()
    assert np.array_equal(volume(store), phantom())
    assert summary.reasons == {"UNREADABLE": 1, **({"NOT_AN_IMAGE_FILE": 2} if nested else {})}


@pytest.mark.parametrize("name", ["zeros.tar", "zeros.tar.gz", "zeros.tgz", "empty.zip", "folders.tar", "in.zip"])
def test_archives_without_files_have_a_verdict(good: Path, run: Ingest, name: str) -> None:
    path = good / name
    if name.startswith("zeros"):
        path.write_bytes(bytes(5_000_000))
    elif name == "folders.tar":
        with tarfile.open(path, "w") as tar:
            tar.add(good / "good", "folder", recursive=False)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            if name == "in.zip":
                archive.writestr("deeper/zeros.tar", bytes(20_000))
    _, summary = run()
    assert sum(rejections(summary).values()) == 1


def test_a_zip_member_without_a_name_costs_itself(tmp_path: Path, run: Ingest) -> None:
    paths = write_series(tmp_path / "made", phantom())
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w") as archive:
        archive.write(paths[0], "first.dcm")
        nameless = zipfile.ZipInfo("x")
        nameless.filename = ""
        archive.writestr(nameless, b"x")
        for path in paths[1:]:
            archive.write(path, path.name)
    store, summary = run()
    assert np.array_equal(volume(store), phantom())
    assert rejections(summary) == {Reason.HOSTILE_MEMBER: 1}


def claims_gigabytes(path: Path) -> None:
    """A few bytes whose header claims 20 GB."""
    content = bytearray(nifti_bytes(phantom(2, 8, 8)))
    content[40:56] = struct.pack("<8h", 3, 32000, 32000, 10, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))


def nifti_bomb(path: Path) -> None:
    content = bytearray(nifti_bytes(phantom(2, 8, 8)))
    content[40:56] = struct.pack("<8h", 3, 1000, 1000, 150, 1, 1, 1, 1)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes(content) + bytes(300_000_000))


def nrrd_bomb(path: Path) -> None:
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 1000 1000 150\nendian: little\nencoding: gzip\n\n"
    path.write_bytes(head + gzip.compress(bytes(300_000_000), 1))


def nrrd_trailing_bomb(path: Path) -> None:
    head = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 10 10 3\nendian: little\nencoding: gzip\n\n"
    path.write_bytes(head + gzip.compress(bytes(300_000_000), 1))


def deflated_bomb(path: Path) -> None:
    image = dataset(np.zeros((16, 16), np.uint16), series="bomb")
    image.add_new(0x00090010, "LO", "MAKER")
    image.add_new(0x00091001, "OB", bytes(300_000_000))
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)


BOMBS: dict[str, Callable[[Path], None]] = {
    "claims.nii.gz": claims_gigabytes,
    "claims.nii": claims_gigabytes,
    "bomb.nii.gz": nifti_bomb,
    "bomb.nrrd": nrrd_bomb,
    "behind.nrrd": nrrd_trailing_bomb,
    "bomb.dcm": deflated_bomb,
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_unpacks_to_too_much_is_refused(good: Path, run: Ingest, name: str) -> None:
    """By a limit of its size and what it may unpack to, not by the memory that happens to be there."""
    BOMBS[name](good / name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store, summary = run()
    assert np.array_equal(volume(store), phantom())
    assert rejections(summary) == {Reason.UNREADABLE: 1}
    if "bomb.dcm" not in name:  # whose making took the memory
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000


def test_a_deflated_object_is_read(tmp_path: Path, run: Ingest) -> None:
    for path in write_series(tmp_path / "in", phantom()):
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        write(image, path)
    store, summary = run()
    assert np.array_equal(volume(store), phantom())
    assert only(summary).files == 6


@pytest.mark.parametrize("encoding", ["gzip", "bzip2", "deflate"])
def test_inflate_gives_what_was_packed(encoding: str) -> None:
    import bz2

    content = np.random.default_rng(0).integers(0, 50, 3_000_000).astype(np.uint8).tobytes()
    deflate = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(content),
        "bzip2": bz2.compress(content),
        "deflate": deflate.compress(content) + deflate.flush(),
    }[encoding]
    assert inflate.inflate(packed, len(content), encoding) == content
    assert inflate.inflate(packed, 1000, encoding) == content[:1000]
    with pytest.raises(RejectedError, match="end too early"):
        inflate.inflate(packed[:-20], 1000, encoding)
