"""Archives with broken members lose these alone; a disk that is full while they are unpacked is nobody's damage."""

from __future__ import annotations

import errno
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medssl_monai.errors import InputError
from medssl_monai.ingest.sources.archives import unpacked
from medssl_monai.store.verdicts import Reason
from tests.ingest.conftest import Ingest
from tests.ingest.dicom_fixtures import phantom, write_series
from tests.ingest.matrix import judged


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Six images of a series in a zip."""
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in write_series(tmp_path / "made", phantom()):
            archive.write(path, path.name)
    return tmp_path / "study.zip"


def change(path: Path, signature: bytes, member: int, offset: int, to: bytes) -> None:
    """Changes bytes of the header of a member, counted from 0, in the zip."""
    content, place = bytearray(path.read_bytes()), -1
    for _ in range(member + 1):
        place = content.index(signature, place + 1)
    content[place + offset : place + offset + len(to)] = to
    path.write_bytes(content)


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


def broken_header(path: Path) -> None:
    change(path, LOCAL, 1, 0, b"XXXX")


def other_name(path: Path) -> None:
    change(path, LOCAL, 1, 30, b"PLANTED")


def deflate64(path: Path) -> None:
    change(path, LOCAL, 1, 8, b"\x09\x00")
    change(path, CENTRAL, 1, 10, b"\x09\x00")


def unknown_method(path: Path) -> None:
    change(path, LOCAL, 1, 8, b"\x4d\x00")
    change(path, CENTRAL, 1, 10, b"\x4d\x00")


@pytest.mark.parametrize(
    ("break_one", "why"),
    [
        (broken_header, "cannot be unpacked (BadZipFile): truncated or damaged"),
        (other_name, "cannot be unpacked (BadZipFile): truncated or damaged"),
        (deflate64, "is compressed by Deflate64, which is not supported; unpack it by hand"),
        (unknown_method, "is compressed by method 77, which is not supported; unpack it by hand"),
    ],
)
def test_a_broken_member_of_a_zip_costs_itself(
    study: Path, tmp_path: Path, run: Ingest, break_one: Callable[[Path], None], why: str
) -> None:
    break_one(study)
    with unpacked([study], tmp_path / "drafts") as (taken, refused):
        assert [file.path.name for file in taken] == [f"{i:03d}.dcm" for i in (0, 2, 3, 4, 5)]
        assert [(one.path, one.detail) for one in refused] == [(study / "001.dcm", why)]
    assert judged(run(study)[1]) == {"accepted": 5, "UNREADABLE": 1}


def test_a_broken_header_of_a_tar_is_told(study: Path, tmp_path: Path) -> None:
    """What follows it cannot be found; that is not taken for the end of the archive."""
    with zipfile.ZipFile(study) as source, tarfile.open(tmp_path / "study.tar", "w") as target:
        for name in source.namelist():
            entry = tarfile.TarInfo(name)
            entry.size = len(source.read(name))
            target.addfile(entry, io.BytesIO(source.read(name)))
    change(tmp_path / "study.tar", b"002.dcm", 0, 148, b"XXXX")  # the checksum
    with unpacked([tmp_path / "study.tar"], tmp_path / "drafts") as (taken, refused):
        assert [file.path.name for file in taken] == ["000.dcm", "001.dcm"]
        detail = (
            "is an archive that cannot be read to its end (ReadError; 2 of its members were met): truncated or damaged"
        )
        assert [(one.path, one.reason, one.detail) for one in refused] == [
            (tmp_path / "study.tar", Reason.UNREADABLE, detail)
        ]


@pytest.mark.parametrize("refused_at", ["write", "open"])
def test_a_full_disk_ends_the_run(
    study: Path, tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch, refused_at: str
) -> None:
    """Rather than the archive being called damaged and the series stored in part."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "PLANTED")
    opened = Path.open

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise full

    def open_full(path: Path, mode: str = "r", *options: object) -> object:
        if mode == "xb" and path.name == "003.dcm":
            if refused_at == "open":
                raise full
            return Full()
        return opened(path, mode, *options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(InputError, match=r"store: cannot be written \(No space left on device\); free space") as caught:
        run(study)
    assert "PLANTED" not in str(caught.value)
    monkeypatch.undo()
    assert not list((tmp_path / "store").glob(".draft*"))
    assert judged(run(study)[1]) == {"accepted": 6}


def test_an_archive_that_may_not_be_read(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(study))

    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with unpacked([study], tmp_path / "drafts") as (_, refused):
        assert [one.detail for one in refused] == [
            "cannot be opened (PermissionError; 0 of its members were met): correct its permissions"
        ]
