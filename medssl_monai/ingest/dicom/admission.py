"""Which DICOM images are taken: the rules, each with its reason code and sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass

from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.store.verdicts import Reason

DERIVED_WORDS = frozenset({"MIP", "MINIP", "PROJECTION IMAGE", "VOLUME RENDERING", "VRT", "SSD", "SCREEN SAVE", "3D"})
"""Words of ImageType for pictures made of many slices (PS3.3 C.7.6.1.1.2 leaves the words to the maker)."""

PERFUSION_WORDS = frozenset({"PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV"})

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
    words = set(instance.image_type)
    if "LOCALIZER" in words:
        return Reason.LOCALIZER, "a localizer shows where slices lie; it is a projection, not a slice"
    if words & DERIVED_WORDS or any(word.endswith((" MIP", " MINIP", " VRT", " SSD")) for word in words):
        return Reason.DERIVED_IMAGE, "ImageType says that it is a projection or rendering of other images"
    if instance.frames > 1:
        return Reason.MULTIFRAME, f"holds {instance.frames} frames that are not slices; only enhanced objects are cut"
    if instance.samples != 1 or instance.photometric not in ("MONOCHROME1", "MONOCHROME2", ""):
        return Reason.COLOUR, "is a colour image; only grey values are measurements"
    return _not_hounsfield(instance, rules) if instance.modality == "CT" else None


def _not_hounsfield(instance: Instance, rules: Rules) -> tuple[Reason, str] | None:
    if set(instance.image_type) & PERFUSION_WORDS:
        return Reason.NOT_HOUNSFIELD, "ImageType says that it is a perfusion map, which is not in HU"
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
