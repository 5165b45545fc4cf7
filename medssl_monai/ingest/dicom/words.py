"""Short texts of headers that may leave: words that are known, because any other could be a name or a number.

A technician may type anything into BodyPartExamined; only the terms of PS3.16 Annex L, and common ones beside them, are
kept. Kernels are kept where they look like a maker's: B30f, Br40d 3, FC51, STANDARD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TERMS = """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF
    CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA
    CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER
    HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG
    MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID
    PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE
    STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THORAX THYMUS THYROID TLSPINE TMJOINT TOE TONGUE TRACHEA TSPINE URETER
    URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
"""

BODY_PARTS = frozenset(_TERMS.split())
"""Terms of BodyPartExamined, in the spelling without spaces."""

_KERNEL_WORDS = "STANDARD STND STD SOFT SMOOTH SHARP LUNG BONE BONEPLUS BONE+ DETAIL EDGE CHEST ULTRA HEAD BRAIN DETL"
_KERNEL = re.compile(r"[A-Z]{1,2}|[A-Z]{1,3}[0-9]{1,3}[A-Z]{0,2}|[0-9]", re.IGNORECASE)


def body_part(content: str) -> str:
    """A term of `BODY_PARTS`; nothing for anything else."""
    word = re.sub(r"[ _/+-]", "", content.upper())
    return word if word in BODY_PARTS else ""


def kernel(values: Iterable[str]) -> str:
    """The values parted by spaces, where all of them look like a kernel; nothing otherwise."""
    words = [word for value in values for word in value.split()]
    known = all(word.upper() in _KERNEL_WORDS.split() or _KERNEL.fullmatch(word) for word in words)
    return " ".join(words) if known else ""
