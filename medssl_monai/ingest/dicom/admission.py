"""Which DICOM images are taken: the rules, each with its reason code and sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.store.verdicts import Reason

_LOCALIZERS = """LOCALIZER LOCALISER SCOUT TOPOGRAM TOPO TOP SURVIEW SCANOGRAM SCANOSCOPE SCANO PILOT"""
_PAGES = """PROT PROTOCOL DOSE REPORT SUMMARY SCREENSHOT CAPTURE SCREEN TEXT FORM GRAPH CURVE HISTOGRAM"""
_RENDERINGS = """MIP MINIP MAXIP MPVR RAYSUM PROJECTION RENDERING VRT VR SSD 3D ENDOSCOPY FLYTHROUGH CINEMATIC FUSION
    FUSED"""
_MAPS = """PERFUSION CBF CBV MTT TTP TMAX RCBF RCBV PBV PBF PERMEABILITY IODINE IODINEMAP MATERIAL MD ZEFF EFFECTIVEZ
    EFFECTIVEATOMIC ATOMIC RHO RHOZ ELECTRON FRACTION URIC MASK SEGMENTATION LABEL LABELMAP PARAMETRIC COLORMAP OVERLAY
    VENTILATION HUMOD"""
"""Words of ImageType, which PS3.3 C.7.6.1.1.2 leaves to the makers: for what shows where slices lie, for pages of text,
for pictures made of many slices, and for values that are not HU."""

_HOUNSFIELD = re.compile("|H|HU|US|UNSPECIFIED|HOU?NS?D?S?FIELDS?(S?UNITS?|EINHEIT(EN)?|SCALE|HU)?")
"""Letters of RescaleType under which CT is in HU, also spelt out; US is "unspecified" (PS3.3 C.11.1.1.2)."""


@dataclass(frozen=True)
class Rules:
    """What the caller wants taken.

    Attributes:
        modality: the only one to take; None takes every imaging modality.
        assume_hu: CT without rescale tags is in HU as stored, and volumes without DICOM's tags are HU unseen.
    """

    modality: str | None = None
    assume_hu: bool = False


def refusal(instance: Instance, rules: Rules) -> tuple[Reason, str] | None:
    """Why an image is not taken; None where it is."""
    if rules.modality is not None and instance.modality != rules.modality:
        return Reason.OTHER_MODALITY, f"its modality is {instance.modality}; this run takes {rules.modality} only"
    words = _words(instance.image_type)
    if words & {*_LOCALIZERS.split()}:
        return Reason.LOCALIZER, "a localizer shows where slices lie; it is a projection, not a slice"
    if words & {*_PAGES.split()}:
        return (
            Reason.DERIVED_IMAGE,
            "ImageType says that it is a page, such as a dose report, and no slice",
        )
    if words & {*_RENDERINGS.split()}:
        return Reason.DERIVED_IMAGE, "ImageType says that it is a projection or rendering of other images"
    if instance.frames > 1:
        return Reason.MULTIFRAME, f"holds {instance.frames} frames that are not slices; only enhanced objects are cut"
    if instance.samples != 1 or instance.photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        return Reason.COLOUR, "is a colour image; only grey values are measurements"
    return _not_hounsfield(instance, rules) if instance.modality == "CT" else None


def _not_hounsfield(instance: Instance, rules: Rules) -> tuple[Reason, str] | None:
    if _words(instance.image_type) & {*_MAPS.split()}:
        return Reason.NOT_HOUNSFIELD, "ImageType says that it is a map of something else, which is not in HU"
    if not _HOUNSFIELD.fullmatch(re.sub("[^A-Z]", "", instance.rescale_type)):
        return Reason.NOT_HOUNSFIELD, "RescaleType says that its values are not HU"
    if instance.slope == 0:
        return Reason.NO_RESCALE, "RescaleSlope is 0, which leaves no image; correct the tag"
    if instance.unreadable_rescale:
        return Reason.NO_RESCALE, "RescaleSlope or RescaleIntercept is there and is no number; correct the tag"
    missing = instance.slope is None or instance.intercept is None
    if missing and not instance.has_lut and not rules.assume_hu:
        return Reason.NO_RESCALE, (
            "RescaleSlope or RescaleIntercept is missing or empty, so that its values are not known to be HU; "
            "give `--assume-hu` (`assume_hu=True`) where they are"
        )
    return None


def _words(image_type: tuple[str, ...]) -> set[str]:
    """The words of all values, and each pair of them that stands together in one: MIN IP is MINIP too."""
    found = set()
    for value in image_type:
        words = re.split("[^A-Z0-9]+", value)
        found |= {*words, *(first + second for first, second in pairwise(words))}
    return found
