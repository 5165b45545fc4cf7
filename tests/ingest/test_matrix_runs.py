"""Rows 26 to 28, 35 and 37 to 39 of the ingestion matrix: archives, paths, names, privacy, runs as wholes, audits."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medssl_monai.classify.audited import audit
from medssl_monai.ingest import IngestSummary
from medssl_monai.ingest.lookup import find_series
from medssl_monai.ingest.sources.archives import ArchiveLimits, unpacked
from tests.ingest.dicom_fixtures import KEY, anatomy, dataset, phantom, tree_bytes, uid, write, write_series
from tests.ingest.matrix import Bench, Case, cases, flags, judged, row, stored, volume


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return path


def series_bytes(bench: Bench, series: str, **options: Any) -> dict[str, bytes]:
    """The files of a phantom series, by name."""
    paths = write_series(bench.folder / "made" / series, phantom(), series=series, **options)
    return {f"{series}/{path.name}": path.read_bytes() for path in paths}


@row(26, accepted=24, NOT_AN_IMAGE_FILE=1, HOSTILE_MEMBER=6, UNREADABLE=2, ARCHIVE_LIMIT=1)
def archives(bench: Bench) -> IngestSummary:
    """zip, tar, tar.gz, nested; members that lead outside, links, an encrypted one; a bomb; a cut one, no archive."""
    source = bench.source
    zipped(source / "study.zip", {**series_bytes(bench, "zip"), "readme.txt": b"text"})
    tarred(source / "study.tar", series_bytes(bench, "tar"))
    tarred(source / "study.tar.gz", series_bytes(bench, "gz"), "w:gz")
    inner = zipped(bench.folder / "inner.zip", series_bytes(bench, "inner")).read_bytes()
    tarred(source / "outer.tgz", {"a/inner.zip": inner}, "w:gz")
    _hostile(source / "hostile.tar", source / "hostile.zip")
    zipped(source / "bomb.zip", {"zeros.dcm": bytes(300 * 2**20)})
    (source / "cut.zip").write_bytes((source / "study.zip").read_bytes()[:-500])
    (source / "no.tar").write_bytes(b"no archive")
    store, summary = bench.run()
    assert all(np.array_equal(store.read_series(series), phantom()) for series in store.series_ids)
    # Read as a folder: the same store as from the files, but for where they lay.
    plain, _ = bench.run(bench.folder / "made")
    assert plain.series_ids == store.series_ids
    assert not list(store.path.glob(".draft*"))
    assert not (bench.folder / "outside.dcm").exists()
    # A series in an archive is found by the archive's path, as in a folder.
    assert find_series(store, source / "study.tar" / "tar", KEY) in store.series_ids
    return summary


def _hostile(tar: Path, zip_file: Path) -> None:
    content = write(dataset(stored(phantom()[0])), tar.parent.parent / "odd.dcm").read_bytes()
    tarred(tar, {"../outside.dcm": content, "/tmp/absolute.dcm": content})
    with tarfile.open(tar, "a") as archive:
        link = tarfile.TarInfo("link.dcm")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with zipfile.ZipFile(zip_file, "w") as archive:
        archive.writestr("..\\outside.dcm", content)
        symlink = zipfile.ZipInfo("link.dcm")
        symlink.external_attr = 0o120777 << 16
        archive.writestr(symlink, "/etc/passwd")
        archive.writestr(zipfile.ZipInfo("secret.dcm"), content)
    # The flag of encryption, in the central directory's last entry.
    raw = bytearray(zip_file.read_bytes())
    raw[raw.rfind(b"PK\x01\x02") + 8] |= 1
    zip_file.write_bytes(raw)


@row(27, accepted=24)
def paths(bench: Bench) -> IngestSummary:
    """Accents, spaces, bytes that are no UTF-8, paths of over 1,000 characters, link loops, input not to be written."""
    deep = bench.source / "deep"
    for _ in range(5):
        deep = deep / ("d" * 200)
    odd = Path(os.fsdecode(os.fsencode(bench.source) + b"/latin\xe9 1"))
    folders = [bench.source / "Ärzte und Bilder", bench.source / "患者", odd, deep]
    for number, folder in enumerate(folders):
        write_series(folder, phantom(seed=number), series=str(number))
    (bench.source / "loop").symlink_to(bench.source)
    (deep / "up").symlink_to(bench.source / "deep")
    before = tree_bytes(bench.source)
    for path in bench.source.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    store, summary = bench.run()
    assert len(store.series_ids) == 4
    assert tree_bytes(bench.source) == before
    for folder in folders:
        assert find_series(store, folder, KEY) in store.series_ids
    return summary


@row(28, accepted=18, NOT_AN_IMAGE=12, UNREADABLE=2, UNDECODABLE=3, NOT_AN_IMAGE_FILE=1)
def character_sets(bench: Bench) -> IngestSummary:
    """Wrong, empty and contradicting sets around names with accents; and pydicom's own files of such names."""
    names = ("Plantedname^Jos\xe9".encode("latin-1"), "Plantedname^李".encode(), b"Plantedname^\xff\xfe\x80")
    for number, (charset, name) in enumerate(zip(("ISO_IR 6", "", "ISO 2022 IR 87"), names, strict=True)):
        for i, path in enumerate(write_series(bench.source / str(number), phantom(seed=number), series=str(number))):
            image = pydicom.dcmread(path)
            with pydicom.config.disable_value_validation():
                image.SpecificCharacterSet = charset
                image.PatientName = name
                image.BodyPartExamined = "KÖRPER"[: 3 + i]
                write(image, path)
    charsets = Path(pydicom.__file__).parent / "data" / "charset_files"
    store, summary = bench.run(bench.source, charsets)
    contents = b"".join(tree_bytes(store.path).values())
    assert b"Plantedname" not in contents
    assert "Plantedname" not in repr(summary.verdicts)
    return summary


@row(35, accepted=6)
def identifying_tags(bench: Bench) -> IngestSummary:
    """Text burned in is flagged; identifiers wherever a tag can carry one are nowhere in the store."""
    planted: dict[str, Any] = {
        "PatientName": "Plantword^A",
        "PatientID": "PLANTWORD1",
        "OtherPatientIDs": "PLANTWORD2",
        "PatientBirthDate": "19640812",
        "StudyDate": "20191231",
        "AcquisitionDate": "20191230",
        "AccessionNumber": "PLANTWORD3",
        "InstitutionName": "Plantword Hospital",
        "StationName": "PLANTWORD4",
        "ReferringPhysicianName": "Plantword^B",
        "OperatorsName": "Plantword^C",
        "StudyDescription": "Plantword",
        "SeriesDescription": "Plantword thorax",
        "ProtocolName": "Plantword",
        "PatientComments": "Plantword",
        "DeviceSerialNumber": "PLANTWORD5",
        "ImageComments": "Plantword",
        "PatientAddress": "Plantword 1",
        "BodyPartExamined": "PLANTWORD",
        "ConvolutionKernel": "Plantword",
        "RescaleType": "HU",
        "PatientTelephoneNumbers": "555PLANTWORD",
        "BurnedInAnnotation": "YES",
    }
    with pydicom.config.disable_value_validation():
        write_series(bench.source / "Plantword_A", phantom(), **planted)
    for path in (bench.source / "Plantword_A").iterdir():
        image = pydicom.dcmread(path)
        image.add_new((0x0099, 0x0010), "LO", "PLANTWORD MAKER")
        image.add_new((0x0099, 0x1001), "LO", "Plantword private")
        image.file_meta.add_new((0x0002, 0x0100), "UI", "1.2.826.4711")
        image.file_meta.add_new((0x0002, 0x0102), "OB", b"Plantword information")
        write(image, path)
    store, summary = bench.run()
    assert "burned_in" in flags(store)
    assert {(found["body_part"], found["kernel"]) for found in store.select()} == {("", "")}
    described = repr([store.select(), store.verdicts, [store.note(one) for one in store.series_ids], store.description])
    everything = b"\n".join([described.encode(), *(name.encode() for name in tree_bytes(store.path))])
    everything += b"\n".join(tree_bytes(store.path).values())
    for word in (b"plantword", b"19640812", b"2019123", uid("one").encode(), b"4711"):
        assert word not in everything.lower(), word
    return summary


@row(37, repaired=1, accepted=14, NOT_AN_IMAGE_FILE=1)
def runs_as_wholes(bench: Bench) -> IngestSummary:
    """Again, in parts, and with two workers: the same bytes, archives and pictures included."""
    import cv2

    from tests.ingest.enhanced_fixtures import write_enhanced

    zipped(bench.source / "study.zip", {**series_bytes(bench, "zip"), "readme.txt": b"text"})
    write_series(bench.source / "plain", phantom(seed=3), series="plain")
    frames = stored(phantom(4))
    turned = [(1, 0, 0, 0, 1, 0)] * 2 + [(0, 1, 0, 0, 0, -1)] * 2
    write_enhanced(bench.source / "mixed", frames, [[0, 0, i] for i in range(4)], orientations=turned)
    write_enhanced(bench.source / "straight", frames, [[0, 0, i] for i in range(4)], series="straight")
    assert cv2.imwrite(str(bench.source / "picture.png"), (frames[0] // 8).astype(np.uint8))
    store, summary = bench.run()
    parallel, _ = bench.run(workers=2)
    assert tree_bytes(parallel.path) == tree_bytes(store.path)
    bench.run(bench.source / "study.zip")
    bench.runs -= 1
    grown, _ = bench.run()
    assert tree_bytes(grown.path) == tree_bytes(store.path)
    bench.runs -= 1
    again, second = bench.run()
    assert tree_bytes(again.path) == tree_bytes(store.path)
    assert (second.added, second.verdicts) == (0, summary.verdicts)
    return summary


@row(38, accepted=12)
def unknown_patients(bench: Bench) -> IngestSummary:
    for series in ("one", "two"):
        lost: dict[str, Any] = {"PatientID": "", "StudyInstanceUID": ""}
        write_series(bench.source / series, phantom(seed=len(series)), series=series, **lost)
    store, summary = bench.run()
    assert len({found["patient"] for found in store.select()}) == 2
    report = audit([store.path])
    assert report.sets[0].patients_unknown == 2
    assert any("patients cannot be compared there" in sentence for sentence in report.statements)
    return summary


@row(39, accepted=36)
def one_patient_twice(bench: Bench) -> IngestSummary:
    """The same slices under another PatientID and other UIDs, a little noisier: found by what they look like."""
    rng = np.random.default_rng(5)
    mine = anatomy(0)
    write_series(bench.source / "a", mine, series="a", PatientID="A")
    write_series(bench.source / "b", mine + rng.integers(-8, 8, mine.shape).astype(np.int16), series="b", PatientID="B")
    write_series(bench.source / "c", anatomy(1), series="c", PatientID="C")
    store, summary = bench.run()
    ids = {name: find_series(store, uid(name), KEY) for name in "abc"}
    table = bench.folder / "labels.csv"
    rows = [f"{ids['a']},x,train", f"{ids['b']},y,test", f"{ids['c']},x,validation"]
    table.write_text("source,label,split\n" + "\n".join(rows) + "\n")
    report = audit([table], store=store.path)
    assert [(one.first, one.second) for one in report.near_duplicates] == [("test", "train")]
    found = report.near_duplicates[0]
    assert {found.first_series, found.second_series} == {ids["a"], ids["b"]}
    assert found.slices == 12
    assert report.leaks
    return summary


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.name)
def test_row(case: Case, tmp_path: Path) -> None:
    assert judged(case.check(Bench(tmp_path))) == case.expected


def test_every_row_has_a_case() -> None:
    from tests.ingest import test_matrix_geometry, test_matrix_values

    modules = (vars(test_matrix_geometry), vars(test_matrix_values), globals())
    assert sorted(case.row for module in modules for case in cases(module)) == list(range(1, 40))


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (ArchiveLimits(members=3), "more than 3 members"),
        (ArchiveLimits(unpacked_bytes=1000), "more than 1000 bytes"),
        (ArchiveLimits(ratio=1.1, ratio_from_bytes=100), r"more than 1\.1 times its size"),
        (ArchiveLimits(depth=1), "2 deep"),
    ],
)
def test_limits_of_archives(tmp_path: Path, limits: ArchiveLimits, why: str) -> None:
    inner = zipped(tmp_path / "inner.zip", {f"{i}.dcm": bytes(500) for i in range(5)}).read_bytes()
    outer = zipped(tmp_path / "outer.zip", {"inner.zip": inner, "x": b"1"})
    beside = tmp_path / "beside"
    beside.write_bytes(b"2")
    with unpacked([outer, beside], tmp_path / "drafts", limits) as (taken, refused):
        assert [file.path for file in taken] == [beside]
        assert [file.path for file in refused] == [outer]
        assert why.replace("\\", "") in refused[0].detail
        assert not list((tmp_path / "drafts").rglob("*.dcm"))
    assert not (tmp_path / "drafts").exists()


def test_volume_with_detached_data_in_an_archive(tmp_path: Path) -> None:
    """The header finds its raw file beside it."""
    import SimpleITK as sitk  # noqa: N813

    bench = Bench(tmp_path)
    (tmp_path / "made").mkdir()
    image: Any = sitk.GetImageFromArray(phantom())
    sitk.WriteImage(image, str(tmp_path / "made" / "a.mhd"))
    zipped(bench.source / "v.zip", {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()})
    store, summary = bench.run()
    assert np.array_equal(volume(store), phantom())
    assert judged(summary) == {"accepted": 2}
