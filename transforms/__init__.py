"""Windows and views for CT slices: array classes, and dictionary classes whose names end in ``d``."""

from medssl_monai.transforms.draws import sample_generator
from medssl_monai.transforms.labelled import LabelledParameters, LabelledView, LabelledViewd
from medssl_monai.transforms.spatial import Crop, resample
from medssl_monai.transforms.views import SparKParameters, SparKViews, SparKViewsd
from medssl_monai.transforms.windows import CTWindow, CTWindowd, fixed_limits, resolve_window, window_names

__all__ = [
    "CTWindow",
    "CTWindowd",
    "Crop",
    "LabelledParameters",
    "LabelledView",
    "LabelledViewd",
    "SparKParameters",
    "SparKViews",
    "SparKViewsd",
    "fixed_limits",
    "resample",
    "resolve_window",
    "sample_generator",
    "window_names",
]
