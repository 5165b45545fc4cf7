"""The frames of enhanced multi-frame objects, each as if it were an image of its own (PS3.3 C.7.6.16).

What holds for a frame stands in its item of the per-frame functional groups, or in the shared ones, or, for the rest,
at the top level of the object.
"""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from medssl_monai.ingest.dicom.tags import has_content, items

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
    "FilterType": (("CTXRayDetailsSequence", "FilterType"),),
    "ReconstructionDiameter": (("CTReconstructionSequence", "ReconstructionDiameter"),),
    "NominalPercentageOfCardiacPhase": (("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),),
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
        per_frame = items(dataset, "PerFrameFunctionalGroupsSequence")
        shared = items(dataset, "SharedFunctionalGroupsSequence")
        self._groups = [*per_frame[frame : frame + 1], *shared[:1]]

    def place(self, keyword: str) -> tuple[Any, str]:
        """The data set, and its keyword, where what holds for the frame stands."""
        for group, inner in FUNCTIONAL_GROUPS.get(keyword, ()):
            for groups in self._groups:
                for item in items(groups, group)[:1]:
                    if has_content(item, inner):
                        return item, inner
        if keyword == "InstanceNumber":  # the object's own number says nothing of the frame
            own = Dataset()
            own.InstanceNumber = self.frame + 1
            return own, keyword
        return self.dataset, keyword


def described_frames(dataset: Any) -> int:
    """How many frames an object describes one by one; 0 where it has no PerFrameFunctionalGroupsSequence."""
    return len(items(dataset, "PerFrameFunctionalGroupsSequence"))
