"""Rows 13 to 25, 33, 34 and 36 of the ingestion matrix: what is taken, and its values."""

from __future__ import annotations

import gzip
import shutil
import warnings
from pathlib import Path
from typing import Any

import nibabel as typed_nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, JPEGLSLossless, RLELossless

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import IngestSummary
from medssl_monai.ingest.lookup import find_series
from tests.ingest.dicom_fixtures import KEY, axial_positions, dataset, phantom, uid, write, write_series
from tests.ingest.matrix import TEST_FILES, Bench, Case, cases, flags, judged, real, row, stored, volume

nibabel: Any = typed_nibabel  # its calls have no types

MR, CT, SECONDARY_CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{one}" for one in ("4", "2", "7"))


def relabelled(name: str, **tags: Any) -> FileDataset:
    """A real file as another SOP class, with other tags."""
    image = pydicom.dcmread(real(name))
    for keyword, value in tags.items():
        setattr(image, keyword, value)
    if "SOPClassUID" in tags:
        image.file_meta.MediaStorageSOPClassUID = tags["SOPClassUID"]
    return image


def save(image: Any, path: Path) -> Path:
    """In whatever transfer syntax it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save_as(path)
    return path


@row(13, accepted=6, NOT_AN_IMAGE=7, DERIVED_IMAGE=2)
def not_images(bench: Bench) -> IngestSummary:
    """Reports, structure sets, segmentations, presentation states, key objects, captures, projections, renderings."""
    write_series(bench.source / "good", phantom())
    for number, sop_class in enumerate(("88.67", "66.4", "11.1", "88.59", "7")):
        image = dataset(
            stored(phantom()[0]), series="odd", name=number, SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{sop_class}"
        )
        write(image, bench.source / f"odd{number}")
    for word in ("MIP", "VOLUME RENDERING"):
        image = dataset(stored(phantom()[0]), series=word, ImageType=["DERIVED", "SECONDARY", word])
        write(image, bench.source / word)
    return bench.run(bench.source, real("rtstruct.dcm"), real("test-SR.dcm"))[1]


@row(14, accepted=4, OTHER_MODALITY=3)
def x_rays_beside_ct(bench: Bench) -> IngestSummary:
    store, summary = bench.run(TEST_FILES / "dicomdirtests" / "77654033", modality="CT")
    assert len(volume(store)) == 4
    return summary


@row(15, accepted=13)
def stored_encodings(bench: Bench) -> IngestSummary:
    """Signed and unsigned 12 bits with junk above; and a real slice, by pydicom's own rescaling."""
    hu = np.clip(phantom(), -1000, 1023)
    twelve: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    for i, position in enumerate(axial_positions(6)):
        junk = (hu[i].astype(np.int32) & 0x0FFF | 0x5000).astype(np.uint16).view(np.int16)
        write(dataset(junk, position=position, name=i, intercept=0, series="signed", **twelve), bench.source / f"s{i}")
        junk = ((hu[i].astype(np.int32) + 1024) | 0xA000).astype(np.uint16)
        write(dataset(junk, position=position, name=i, series="unsigned", **twelve), bench.source / f"u{i}")
    store, summary = bench.run(bench.source, real("CT_small.dcm"))
    small = pydicom.dcmread(real("CT_small.dcm"))
    for series in store.series_ids:
        pixels = store.read_series(series)
        expected = hu if len(pixels) == 6 else apply_modality_lut(small.pixel_array, small)[None]
        assert np.array_equal(pixels, expected)
    return summary


@row(16, repaired=1)
def sign_contradicts_codestream(bench: Bench) -> IngestSummary:
    store, summary = bench.run(real("J2K_pixelrep_mismatch.dcm"))
    # The values that pydicom's own tests hold for this file.
    assert volume(store)[0, 47:57, 279].tolist() == [621, 412, 138, -193, -520, -767, -907, -966, -988, -995]
    assert "sign_corrected" in flags(store)
    return summary


@row(17, accepted=6, repaired=10)
def padding(bench: Bench) -> IngestSummary:
    """Declared, undeclared, smeared by lossy compression: -1024 in all of them."""
    hu = phantom()
    for declared in (True, False):
        for i, position in enumerate(axial_positions(6)):
            padded = (hu[i].astype(int) + 1024).astype(np.int16)
            padded[:2, :2] = -2000
            tags: dict[str, Any] = {"PixelPaddingValue": -2000} if declared else {}
            image = dataset(padded, position=position, name=i, series=f"{declared}", **tags)
            write(image, bench.source / f"{declared}{i}")
    names = ("693_UNCI.dcm", "693_UNCR.dcm", "693_J2KR.dcm", "693_J2KI.dcm")
    store, summary = bench.run(bench.source, *map(real, names))
    for found in store.select():
        pixels = store.read(found["series_id"], found["slice"])
        assert pixels.min() >= -1024
        assert pixels[0, 0] == -1024
        assert "padded" in found["flags"]
    return summary


@row(18, accepted=6, NO_RESCALE=3)
def rescaling_by_slice(bench: Bench) -> IngestSummary:
    hu = (phantom() // 4) * 4
    for i, position in enumerate(axial_positions(6)):
        slope, intercept = (1, 2, 4, 0.5, 0.25, 2)[i], -1024 - 100 * i
        values = ((hu[i] - intercept) / slope).astype(np.int16)
        image = dataset(values, position=position, name=i, slope=slope, intercept=intercept)
        write(image, bench.source / str(i))
    for name, tags in (("none", {"slope": None}), ("empty", {"RescaleSlope": ""}), ("half", {"intercept": None})):
        write(dataset(hu[0], series=name, **tags), bench.source / name)
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    declared, _ = bench.run(bench.source / "none", assume_hu=True)
    assert np.array_equal(volume(declared)[0], np.maximum(hu[0].astype(int) - 1024, -1024))
    return summary


@row(19, accepted=1, NOT_AN_IMAGE=1)
def modality_lut(bench: Bench) -> IngestSummary:
    """The real table is of a secondary capture, which is set aside; as CT it is applied."""
    image = relabelled("mlut_18.dcm", SOPClassUID=CT, Modality="CT")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        assert keyword not in image
    table = np.linspace(0, 1500, 4096).astype(np.uint16)
    image.ModalityLUTSequence[0].LUTData = table.tolist()
    save(image, bench.source / "ct")
    store, summary = bench.run(bench.source, real("mlut_18.dcm"))
    assert np.array_equal(volume(store)[0], apply_modality_lut(image.pixel_array, image))
    assert volume(store).max() == 1500
    return summary


@row(20, accepted=7)
def windows(bench: Bench) -> IngestSummary:
    """Several values, width 0, other functions, a VOI LUT (real): metadata at most, never burned in."""
    hu, positions = phantom(), axial_positions(6)
    variants: list[dict[str, Any]] = [
        {"WindowCenter": [40, 300], "WindowWidth": [80, 900]},
        {"WindowCenter": 50, "WindowWidth": 0},
        {"WindowCenter": 50, "WindowWidth": 1, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 60, "WindowWidth": 350.5, "VOILUTFunction": "SIGMOID"},
        {"WindowWidth": 5},
        {},
    ]
    for i, tags in enumerate(variants):
        write(dataset(stored(hu[i]), position=positions[i], name=i, **tags), bench.source / str(i))
    image = relabelled("vlut_04.dcm", SOPClassUID=MR, Modality="MR")
    save(image, bench.source / "lut")
    store, summary = bench.run()
    found = [(one["window_level"], one["window_width"]) for one in store.select([["modality", "==", "CT"]])]
    assert found == [(40, 80), (None, None), (50, 1), (60, 350.5), (None, None), (None, None)]
    for one in store.select([["slice", "==", 0]]):
        expected = hu if one["modality"] == "CT" else image.pixel_array[None]
        assert np.array_equal(store.read_series(one["series_id"]), expected)
        if one["modality"] == "MR":
            assert store.voi(one["series_id"], 0).tables == ((256, 0, 16),)
    return summary


@row(21, repaired=2, accepted=1, COLOUR=3)
def photometric_interpretations(bench: Bench) -> IngestSummary:
    """Real X-rays stored inverted are turned over; HU are HU however they are shown; colour is no measurement."""
    write(dataset(stored(phantom()[0]), PhotometricInterpretation="MONOCHROME1"), bench.source / "ct")
    red = dataset(np.zeros((20, 16), np.uint16), series="colour", PhotometricInterpretation="RGB", SamplesPerPixel=3)
    red.PlanarConfiguration = 0
    red.PixelData *= 3
    write(red, bench.source / "colour")
    names = ("RG1_UNCI.dcm", "RG3_UNCI.dcm", "examples_palette.dcm", "examples_jpeg2k.dcm")
    store, summary = bench.run(bench.source, *map(real, names))
    for found in store.select():
        pixels = store.read(found["series_id"], 0)
        if found["modality"] == "CT":
            assert np.array_equal(pixels, phantom()[0])
            continue
        original = pydicom.dcmread(real("RG1_UNCI.dcm" if found["rows"] == 1955 else "RG3_UNCI.dcm"))
        assert np.array_equal(pixels, 2**original.BitsStored - 1 - original.pixel_array.astype(int))
        assert "inverted" in found["flags"]
    return summary


SYNTAXES = {
    "implicit": pydicom.uid.ImplicitVRLittleEndian,
    "explicit": pydicom.uid.ExplicitVRLittleEndian,
    "big": pydicom.uid.ExplicitVRBigEndian,
    "deflated": pydicom.uid.DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
}


def encoded(image: FileDataset, syntax: UID, path: Path) -> None:
    """Made in a syntax, by pydicom's own encoders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax.is_compressed and syntax != pydicom.uid.DeflatedExplicitVRLittleEndian:
        image.compress(syntax, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax == pydicom.uid.ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
            pydicom.dcmwrite(path, image, implicit_vr=False, little_endian=False, force_encoding=True)
        else:
            pydicom.dcmwrite(path, image, enforce_file_format=True)


@row(22, accepted=40, repaired=5, UNDECODABLE=2)
def transfer_syntaxes(bench: Bench) -> IngestSummary:
    """Made files of each writable syntax; real ones of JPEG extended, lossless and 2000; one that nothing decodes."""
    hu = phantom()
    for name, syntax in SYNTAXES.items():
        for i, position in enumerate(axial_positions(6)):
            image = dataset(stored(hu[i]), position=position, series=name, name=i)
            encoded(image, syntax, bench.source / name / str(i))
    # Which of the real files were compressed with loss; None: only a GPL decoder reads JPEG extended of 12 bits.
    names = {
        "JPGExtended.dcm": None,
        "JPEG-LL.dcm": False,
        "JPEG2000.dcm": True,
        "JPEGLSNearLossless_16.dcm": True,
        "image_dfl.dcm": False,
    }
    for name in names:
        tags = {"SOPClassUID": MR, "Modality": "MR", "SeriesInstanceUID": uid(name), "SOPInstanceUID": uid(name, 0)}
        save(relabelled(name, **tags), bench.source / "real" / name)
    broken = relabelled("MR_small_jp2klossless.dcm", SeriesInstanceUID=uid("broken"))
    broken.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no codestream"])
    save(broken, bench.source / "broken")
    mr_small = ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm")
    whole = [real(name) for name in ("bad_sequence.dcm", "693_J2KI.dcm", *mr_small)]
    store, summary = bench.run(bench.source, *whole)
    mr = store.select([["rows", "==", 64]])[0]
    assert np.array_equal(store.read(mr["series_id"], 0), pydicom.dcmread(real("MR_small.dcm")).pixel_array)
    for name in SYNTAXES:
        assert np.array_equal(store.read_series(find_series(store, uid(name), KEY)), hu), name
    for name, lossy in [(name, lossy) for name, lossy in names.items() if lossy is not None]:
        found = store.select([["series_id", "==", find_series(store, uid(name), KEY)]])
        assert ("lossy" in found[0]["flags"]) == lossy, name
    remedies = sorted(verdict.detail.partition("pip install ")[2] for verdict in summary.verdicts if verdict.detail)
    assert remedies == ["pylibjpeg-libjpeg pylibjpeg)", "pylibjpeg-openjpeg pylibjpeg)"]
    return summary


@row(23, accepted=2, UNREADABLE=3, NOT_AN_IMAGE_FILE=1, NOT_AN_IMAGE=2)
def no_preamble_no_meta(bench: Bench) -> IngestSummary:
    """Bare data sets, implicit and explicit, are read; what `force` makes of noise is rejected."""
    hu = phantom(2)
    for i, implicit in enumerate((True, False)):
        image = dataset(stored(hu[i]), position=axial_positions(2)[i], name=i)
        bare = Dataset()
        bare.update({element.tag: element for element in image})
        pydicom.dcmwrite(bench.source / str(i), bare, implicit_vr=implicit, little_endian=True)
    (bench.source / "noise").write_bytes(b"\x08\x00" + np.random.default_rng(0).bytes(5000))
    (bench.source / "zeros").write_bytes(b"\x08\x00" + bytes(500))
    names = ("no_meta.dcm", "meta_missing_tsyntax.dcm", "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm")
    store, summary = bench.run(bench.source, *map(real, names))
    assert np.array_equal(volume(store), hu)
    return summary


@row(24, repaired=5, accepted=1, UNDECODABLE=2, NOT_AN_IMAGE_FILE=2)
def broken_files(bench: Bench) -> IngestSummary:
    hu = phantom()
    paths = write_series(bench.source, hu)
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    paths[1].write_bytes(paths[1].read_bytes() + b"\0" * 30)
    (bench.source / "empty.dcm").write_bytes(b"")
    (bench.source / "text.dcm").write_text("not an image at all, " * 20)
    store, summary = bench.run(bench.source, real("MR_truncated.dcm"), real("MR_small_padded.dcm"))
    ct = store.select([["modality", "==", "CT"]])[0]["series_id"]
    assert np.array_equal(store.read_series(ct), np.delete(hu, 4, 0))
    return summary


@row(25, accepted=6, DICOMDIR=3)
def dicomdir(bench: Bench) -> IngestSummary:
    """Beside its tree, and with offsets that lead nowhere: the tree is scanned, the table is not an image."""
    hu = phantom()
    write_series(bench.source / "IMAGES", hu)
    for name in ("DICOMDIR", "DICOMDIR-nooffset", "DICOMDIR-reordered"):
        shutil.copy(TEST_FILES / "dicomdirtests" / name, bench.source / name)
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    with pytest.raises(NoImagesError, match="3 DICOMDIR"):
        bench.run(*(path for path in bench.source.iterdir() if path.is_file()))
    return summary


@row(33, accepted=7, NOT_AN_IMAGE=1, UNREADABLE=2)
def odd_representations(bench: Bench) -> IngestSummary:
    """Nested private sequences, unknown VRs and odd lengths around a good image are tolerated; the rest is isolated."""
    hu = phantom()
    for i, position in enumerate(axial_positions(6)):
        image = dataset(stored(hu[i]), position=position, name=i)
        inner = Dataset()
        inner.add_new((0x0099, 0x0010), "LO", "MAKER")
        inner.add_new((0x0099, 0x1001), "UN", b"odd")
        outer = Dataset()
        outer.add_new((0x0099, 0x0010), "LO", "MAKER")
        outer.add_new((0x0099, 0x1002), "SQ", DicomSequence([inner]))
        image.add_new((0x0099, 0x0010), "LO", "MAKER")
        image.add_new((0x0099, 0x1003), "SQ", DicomSequence([outer]))
        image.add_new((0x0099, 0x1004), "UN", b"\x01\x02\x03")
        write(image, bench.source / str(i))
    names = ("explicit_VR-UN.dcm", "badVR.dcm", "nested_priv_SQ.dcm", "priv_SQ.dcm")
    store, summary = bench.run(bench.source, *map(real, names))
    small = store.select([["rows", "==", 20]])[0]["series_id"]
    assert np.array_equal(store.read_series(small), hu)
    return summary


@row(34, repaired=1)
def metal(bench: Bench) -> IngestSummary:
    values = np.array([[0, 3000], [3500, 1000]], np.uint16)
    write(dataset(values, slope=10.0, intercept=-1000.0), bench.source / "metal")
    store, summary = bench.run()
    assert volume(store).tolist() == [[[-1000, 29000], [32767, 9000]]]
    assert "clipped" in flags(store)
    return summary


def nifti(path: Path, array: Any, affine: Any = None, slope: float | None = None, inter: float = 0) -> Any:
    image = nibabel.Nifti1Image(array, np.diag([-0.9, -0.7, 2.5, 1]) if affine is None else affine)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return image


@row(36, accepted=5, repaired=1, MULTIVOLUME=1, NOT_HOUNSFIELD=1, UNREADABLE=1)
def nifti_variants(bench: Bench) -> IngestSummary:
    hu = phantom()
    xyz, folder = hu.transpose(2, 1, 0), bench.source
    nifti(folder / "scaled.nii.gz", ((xyz.astype(int) + 1024) // 4).astype(np.int16), slope=4, inter=-1024)
    nifti(folder / "int32.nii.gz", xyz.astype(np.int32))
    nifti(folder / "float.nii.gz", xyz.astype(np.float64) + 0.25)
    holes = xyz.astype(np.float32)
    holes[0, 0] = np.nan
    nifti(folder / "nan.nii.gz", holes)
    nifti(folder / "four.nii.gz", np.stack([xyz] * 2, -1))
    both = nifti(folder / "both.nii.gz", xyz + 0)
    both.set_qform(np.eye(4), 1)
    nibabel.save(both, folder / "both.nii.gz")
    sheared = np.array([[-0.9, 0, 0.4, 0], [0, -0.7, 0, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    nifti(folder / "sheared.nii.gz", np.roll(xyz, 1, 0), sheared)
    (folder / "cut.nii.gz").write_bytes((folder / "int32.nii.gz").read_bytes()[:-300])
    nifti(folder / "windowed.nii.gz", np.clip((xyz + 160.0) / 400 * 255, 0, 255).astype(np.uint8))
    with gzip.open(folder / "windowed.nii.gz") as file:
        assert file.read(4)
    store, summary = bench.run()
    found = {flag for one in store.select() for flag in one["flags"].split(",")}
    assert {"qform_sform_differ", "sheared", "non_finite", "patient_unknown"} <= found
    told, _ = bench.run(folder / "windowed.nii.gz", assume_hu=True)
    assert volume(told).max() <= 255
    return summary


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.name)
def test_row(case: Case, tmp_path: Path) -> None:
    assert judged(case.check(Bench(tmp_path))) == case.expected
