"""What MONAI Label imports and this server never calls."""

import importlib.util
import sys
from types import ModuleType


def provide() -> None:
    """Put an empty module where pydicom_seg cannot be imported.

    Its newest release needs numpy 1 and pydicom 2; MONAI Label imports it unconditionally and calls it only to turn
    segmentations into DICOM, which a server of class labels does not.
    """
    if "pydicom_seg" not in sys.modules and importlib.util.find_spec("pydicom_seg") is None:
        sys.modules["pydicom_seg"] = ModuleType("pydicom_seg")
