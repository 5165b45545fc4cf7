"""The frames of enhanced multi-frame objects, each as if it were an image of its own (PS3.3 C.7.6.16).

What holds for a frame stands in its item of the per-frame functional groups, or in the shared ones, or, for the rest,
at the top level of the object.
"""

from __future__ import annotations

import warnings
from typing import Any

FUNCTIONAL_GROUPS: dict[str, tuple[tuple[str, str], ...]] = {
    "ImagePositionPatient": (("PlanePositionSequence", "ImagePositionPatient"),),
    "ImageOrientationPatient": (("PlaneOrientationSequence", "ImageOrientationPatient"),),
    "PixelSpacing": (("PixelMeasuresSequence", "PixelSpacing"),),
    "SliceThickness": (("PixelMeasuresSequence", "SliceThickness"),),
    "SpacingBetweenSlices": (("PixelMeasuresSequence", "SpacingBetweenSlices"),),
    "RescaleSlope": (("PixelValueTransformationSequence", "RescaleSlope"),),
    "RescaleIntercept": (("PixelValueTransformationSequence", "RescaleIntercept"),),
    "RescaleType": (("PixelValueTransformationSequence", "RescaleType"),),
    "WindowCenter": (("FrameVOILUTSequence", "WindowCenter"),),
    "WindowWidth": (("FrameVOILUTSequence", "WindowWidth"),),
    "VOILUTFunction": (("FrameVOILUTSequence", "VOILUTFunction"),),
    "ImageType": (
        ("CTImageFrameTypeSequence", "FrameType"),
        ("MRImageFrameTypeSequence", "FrameType"),
        ("PETFrameTypeSequence", "FrameType"),
    ),
    "ConvolutionKernel": (("CTReconstructionSequence", "ConvolutionKernel"),),
    "KVP": (("CTXRayDetailsSequence", "KVP"),),
    "StackID": (("FrameContentSequence", "StackID"),),
    "InstanceNumber": (("FrameContentSequence", "InStackPositionNumber"),),
    "AcquisitionNumber": (("FrameContentSequence", "FrameAcquisitionNumber"),),
    "TemporalPositionIndex": (("FrameContentSequence", "TemporalPositionIndex"),),
    "AcquisitionTime": (("FrameContentSequence", "FrameAcquisitionDateTime"),),
    "EchoNumbers": (("MREchoSequence", "EffectiveEchoTime"),),
    "DiffusionBValue": (("MRDiffusionSequence", "DiffusionBValue"),),
    "TriggerTime": (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),),
}
"""Keyword of a single-frame object to the places where enhanced ones keep it: functional group, and keyword there."""


class FrameHeader:
    """A frame's header, asked by the keywords of single-frame objects.

    Args:
        dataset: the object, with its functional groups.
        frame: the frame's number, from 0.
    """

    def __init__(self, dataset: Any, frame: int) -> None:
        self.dataset, self.frame, self.file_meta = dataset, frame, dataset.file_meta
        per_frame = _items(dataset, "PerFrameFunctionalGroupsSequence")
        shared = _items(dataset, "SharedFunctionalGroupsSequence")
        self._groups = [*per_frame[frame : frame + 1], *shared[:1]]

    def get(self, keyword: str) -> Any:
        """The value that holds for the frame, None where there is none."""
        for group, inner in FUNCTIONAL_GROUPS.get(keyword, ()):
            for groups in self._groups:
                for item in _items(groups, group)[:1]:
                    value = item.get(inner)
                    if value is not None:
                        return value
        if keyword == "InstanceNumber":
            return self.frame + 1  # the object's own number says nothing of the frame
        return self.dataset.get(keyword)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.dataset


def described_frames(dataset: Any) -> int:
    """How many frames an object describes one by one; 0 where it has no PerFrameFunctionalGroupsSequence."""
    return len(_items(dataset, "PerFrameFunctionalGroupsSequence"))


def _items(dataset: Any, keyword: str) -> list[Any]:
    """A sequence's items; none where it is missing or broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return list(dataset.get(keyword) or ())
        except Exception:  # what a broken sequence raises varies with the damage
            return []
