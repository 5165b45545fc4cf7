"""The words that name a modality."""

from __future__ import annotations

from medssl_monai.errors import InputError
from medssl_monai.ingest.dicom.instance import IMAGE_CLASSES

MODALITIES = frozenset(
    {
        *IMAGE_CLASSES.values(),
        *("BDUS", "BI", "BMD", "CFM", "DG", "DMS", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "NM", "OCT", "OP", "OPM"),
        *("OPT", "OSS", "OT", "PX", "RG", "SM", "TG", "XC"),
    }
)
"""DICOM's words for kinds of images (PS3.3 C.7.3.1.1.1): those of the SOP classes that are read, and what volume files
and pictures may be besides."""


def checked_modality(name: str) -> str:
    """The word in DICOM's spelling: ``" ct"`` to ``"CT"``. Values under any other word would not be checked to be HU.

    Raises:
        InputError: DICOM has no such word for images.
    """
    word = name.strip().upper()
    if word not in MODALITIES:
        raise InputError(
            f"modality {name!r}: is none of DICOM's words for images ({', '.join(sorted(MODALITIES))}); correct it, or "
            "leave it out to take them all"
        )
    return word
