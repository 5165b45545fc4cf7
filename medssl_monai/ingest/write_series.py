"""One series from its files to the store: decoded, turned, described, written. This is what a worker does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from medssl_monai.errors import GeometryError
from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.dicom.pixels import read_pixels
from medssl_monai.ingest.dicom.plan import DicomPlan
from medssl_monai.ingest.geometry import local_spacing, stack_affine
from medssl_monai.ingest.hounsfield import joined, not_hounsfield, odd_hounsfield
from medssl_monai.ingest.sources.paths import is_picture_file
from medssl_monai.ingest.volumes.pictures import read_picture
from medssl_monai.ingest.volumes.plan import VolumePlan
from medssl_monai.ingest.volumes.read import read_volume
from medssl_monai.ingest.volumes.volume import check_values, cut
from medssl_monai.store.pseudonyms import source_id
from medssl_monai.store.records import SeriesHeader, SeriesNote, SliceRecord, Voi, broken_id
from medssl_monai.store.verdicts import FLAGS, REPAIRING_FLAGS, Outcome, Reason, RejectedError, Verdict
from medssl_monai.store.writer import StoreWriter


@dataclass(frozen=True)
class _LeftOut:
    """Images of a series that cannot be decoded: verdicts on their files, and by what they are known again."""

    verdicts: tuple[Verdict, ...] = ()
    ids: tuple[str, ...] = ()


Plan = DicomPlan | VolumePlan


def process(plan: Plan, writer: StoreWriter, key: bytes, replaces: bool = False) -> tuple[Verdict, ...]:
    """Writes one series; gives its verdict, and those on its files that could not be decoded.

    Broken input ends in a verdict. What the disk refuses is raised.
    """
    if isinstance(plan, VolumePlan):
        work = _process_picture if is_picture_file(plan.path) else _process_volume
        return work(plan, writer, replaces)
    return _process_dicom(plan, writer, key, replaces)


class _BrokenImageError(Exception):
    """Decoding an image of a series failed, while the series is being written."""


class _NotHounsfieldError(Exception):
    """The values of a CT series cannot be in HU; says why."""


class _OddError(Exception):
    """The values of a CT series are flagged as a whole, see `odd_hounsfield`."""


class _TooHighError(Exception):
    """An image of a series that is not CT has values above int16."""


def _process_dicom(plan: DicomPlan, writer: StoreWriter, key: bytes, replaces: bool) -> tuple[Verdict, ...]:
    try:
        return _write_fitting(plan, writer, _LeftOut(ids=plan.lost_ids), replaces)
    except _BrokenImageError:
        pass
    # Rare, so that it may cost a second decoding: find all that are broken, and write the series without them.
    broken: dict[int, RejectedError] = {}
    for i, instance in enumerate(plan.instances):
        try:
            read_pixels(instance)
        except RejectedError as rejection:
            broken[i] = rejection
    rest = plan.without(set(broken))
    lost = plan.owned - rest.owned
    verdicts = {
        plan.instances[i].path: Verdict(
            Outcome.REJECTED,
            "file",
            source_id(key, plan.instances[i].path),
            files=int(plan.instances[i].path in lost),
            modality=plan.instances[i].modality,
            reason=rejection.reason,
            detail=rejection.detail,
        )
        for i, rejection in broken.items()
    }
    if rest.instances:
        ids = (broken_id(plan.own_ids[i], plan.instances[i].content) for i in broken)
        left_out = _LeftOut(tuple(verdicts.values()), tuple(sorted((*ids, *plan.lost_ids))))
        return _write_fitting(rest, writer, left_out, replaces)
    first, *others = verdicts.values()
    # What is left are copies of images that turned out broken.
    return (replace(first, files=first.files + rest.files), *others)


def _write_fitting(plan: DicomPlan, writer: StoreWriter, left_out: _LeftOut, replaces: bool) -> tuple[Verdict, ...]:
    """As `_write_dicom`; writes a series again, which is rare, where its values as a whole ask for it.

    Values that need 16 bits without a sign are lowered into int16. CT that cannot be in HU is refused unless the caller
    declared it, and CT without air or without tissue is flagged.
    """
    try:
        return _write_dicom(plan, writer, left_out, replaces)
    except _TooHighError:
        return _write_dicom(plan, writer, left_out, replaces, lowered=True)
    except _OddError as error:
        plan = replace(plan, flags=plan.flags | {str(error)})
    except _NotHounsfieldError as error:
        if not plan.assume_hu:
            detail = (
                f"its tags say Hounsfield units, and its values cannot be: {error}; correct the rescale tags, or give "
                "`--assume-hu` (`assume_hu=True`) where they are"
            )
            refused = Verdict(
                Outcome.REJECTED,
                "series",
                plan.source_id,
                plan.series_id,
                files=plan.files,
                modality=plan.instances[0].modality,
                reason=Reason.NOT_HOUNSFIELD,
                detail=detail,
            )
            return (refused, *left_out.verdicts)
        declared = "took values as HU that do not look like it, as the caller declared"
        plan = replace(plan, done=(*plan.done, declared))
    return _write_dicom(plan, writer, left_out, replaces, checked=True)


def _write_dicom(
    plan: DicomPlan,
    writer: StoreWriter,
    left_out: _LeftOut,
    replaces: bool,
    *,
    lowered: bool = False,
    checked: bool = False,
) -> tuple[Verdict, ...]:
    first = plan.instances[0]
    spacing_mm, affine = _dicom_geometry(plan)
    height, width = first.shape
    turned = plan.orientation is not None and plan.orientation.transpose
    header = SeriesHeader(
        series_id=plan.series_id,
        patient=plan.patient,
        source_id=plan.source_id,
        modality=first.modality,
        plane=plan.orientation.plane if plan.orientation else "unknown",
        shape=(len(plan.instances), *((width, height) if turned else (height, width))),
        body_part=first.body_part,
        kernel=first.kernel,
        flags=plan.flags,
        affine=affine,
        shifted_day=plan.shifted_day,
    )

    def note(slice_flags: frozenset[str]) -> SeriesNote:
        verdict = _taken(header, plan.files, plan.repairs, slice_flags)
        verdicts = (verdict, *left_out.verdicts)
        return SeriesNote(
            plan.instance_ids, verdicts, writer.key_check, undecodable=left_out.ids, voi=_voi_from(plan.instances)
        )

    slices = _dicom_slices(plan, spacing_mm, lowered, checked)
    return writer.write(header, slices, note, replace=replaces).verdicts


def _taken(header: SeriesHeader, files: int, repairs: tuple[str, ...], slice_flags: frozenset[str]) -> Verdict:
    """The verdict on a series that was written."""
    repairs = (*repairs, *(FLAGS[flag] for flag in sorted(slice_flags & REPAIRING_FLAGS)))
    return Verdict(
        outcome=Outcome.REPAIRED if repairs else Outcome.ACCEPTED,
        kind="series",
        source_id=header.source_id,
        series_id=header.series_id,
        files=files,
        slices=header.shape[0],
        modality=header.modality,
        repairs=repairs,
        flags=tuple(sorted(header.flags | slice_flags)),
    )


def _dicom_slices(
    plan: DicomPlan, spacing_mm: tuple[float, float] | None, lowered: bool, checked: bool
) -> Iterator[SliceRecord]:
    """Decoded and turned, in order; what the values of the whole series show is known, and raised, after the last."""
    steps = local_spacing(plan.depths_mm)
    samples: list[NDArray[Any]] = []
    for number, instance in enumerate(plan.instances):
        try:
            pixels, flags = read_pixels(instance, lowered, samples)
        except RejectedError as rejection:
            raise _BrokenImageError from rejection
        if "clipped" in flags and instance.modality != "CT" and not lowered:
            raise _TooHighError
        if plan.orientation is not None:
            pixels = plan.orientation.apply(pixels)
        level, width = instance.window or (None, None)
        yield SliceRecord(
            pixels,
            z_mm=instance.centre_z_mm,
            spacing_mm=spacing_mm,
            slice_spacing_mm=steps[number] if steps else instance.thickness_mm,
            window_level=level,
            window_width=width,
            flags=flags,
        )
    if plan.instances[0].modality == "CT" and not checked:
        values = joined(samples)
        # A table from stored values to HU is not written by mistake, as a wrong intercept is.
        if (why := not_hounsfield(values, tagged=True)) and not any(one.has_lut for one in plan.instances):
            raise _NotHounsfieldError(why)
        if flag := odd_hounsfield(values):
            raise _OddError(flag)


def _voi_from(instances: Sequence[Instance]) -> tuple[tuple[int, Voi], ...]:
    """What the tags propose for showing the slices, wherever it changes."""
    changes: list[tuple[int, Voi]] = []
    for number, instance in enumerate(instances):
        if instance.voi != (changes[-1][1] if changes else Voi()):
            changes.append((number, instance.voi))
    return tuple(changes)


def _dicom_geometry(plan: DicomPlan) -> tuple[tuple[float, float] | None, tuple[float, ...] | None]:
    """Canonical (row, column) spacing and the affine; None for what the tags do not tell."""
    first, last = plan.instances[0], plan.instances[-1]
    if plan.orientation is None or first.spacing_mm is None or first.position is None or last.position is None:
        return first.spacing_mm, None
    spacing_mm = plan.orientation.spacing(first.spacing_mm)
    if "position_jumps" in plan.flags:
        return spacing_mm, None  # no affine holds for all slices; each has its own z
    shape = (first.shape[1], first.shape[0]) if plan.orientation.transpose else first.shape
    corners = [plan.orientation.origin(position, shape, spacing_mm) for position in (first.position, last.position)]
    step = first.thickness_mm or 1.0
    affine = stack_affine(plan.orientation, corners[0], corners[1], len(plan.instances), spacing_mm, step)
    return spacing_mm, tuple(float(value) for value in affine.reshape(-1))


def _process_volume(plan: VolumePlan, writer: StoreWriter, replaces: bool) -> tuple[Verdict, ...]:
    try:
        volume = read_volume(plan.path)
        check_values(volume, plan.modality, plan.assume_hu)
        slices = cut(volume)
    except RejectedError as rejection:
        return (_refused(plan, rejection.reason, rejection.detail),)
    except GeometryError as error:
        return (_refused(plan, Reason.UNREADABLE, str(error)),)
    count, height, width = slices.stored.shape
    header = SeriesHeader(
        series_id=plan.series_id,
        patient=plan.patient,
        source_id=plan.source_id,
        modality=plan.modality,
        plane=slices.orientation.plane,
        shape=(count, height, width),
        flags=slices.flags | _of_patient(plan),
        affine=tuple(float(value) for value in slices.affine.reshape(-1)),
    )
    repairs = ("took values as HU unseen, as the caller declared",) if plan.assume_hu else ()

    def note(slice_flags: frozenset[str]) -> SeriesNote:
        verdicts = (_taken(header, plan.files, repairs, slice_flags),)
        return SeriesNote(plan.instance_ids, verdicts, writer.key_check, patient=plan.patient)

    return writer.write(header, slices.slices(plan.modality), note, replace=replaces).verdicts


def _process_picture(plan: VolumePlan, writer: StoreWriter, replaces: bool) -> tuple[Verdict, ...]:
    try:
        picture = read_picture(plan.path)
    except RejectedError as rejection:
        return (_refused(plan, rejection.reason, rejection.detail),)
    header = SeriesHeader(
        series_id=plan.series_id,
        patient=plan.patient,
        source_id=plan.source_id,
        modality=plan.modality,
        plane="unknown",
        shape=(1, picture.pixels.shape[0], picture.pixels.shape[1]),
        flags=frozenset({"no_geometry"}) | _of_patient(plan),
    )

    def note(flags: frozenset[str]) -> SeriesNote:
        verdicts = (_taken(header, plan.files, (), flags),)
        return SeriesNote(plan.instance_ids, verdicts, writer.key_check, patient=plan.patient)

    level, width = picture.window
    slices = [SliceRecord(picture.pixels, window_level=level, window_width=width, flags=picture.flags)]
    return writer.write(header, slices, note, replace=replaces).verdicts


def _of_patient(plan: VolumePlan) -> frozenset[str]:
    return frozenset() if plan.patient_known else frozenset({"patient_unknown"})


def _refused(plan: VolumePlan, reason: Reason, detail: str) -> Verdict:
    return Verdict(
        Outcome.REJECTED, "file", plan.source_id, files=plan.files, modality=plan.modality, reason=reason, detail=detail
    )
