"""Stand-in for a package that MONAI Label imports and this server never calls."""

import importlib.util
import sys
from types import ModuleType


def provide() -> None:
    """Register an empty module as pydicom_seg if it is not installed.

    Its newest release needs numpy 1 and pydicom 2. MONAI Label imports it unconditionally, but calls it only to convert
    segmentations into DICOM, which this server does not do.
    """
    if "pydicom_seg" not in sys.modules and importlib.util.find_spec("pydicom_seg") is None:
        sys.modules["pydicom_seg"] = ModuleType("pydicom_seg")
