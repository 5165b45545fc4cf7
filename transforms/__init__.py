"""Windows and views for CT slices: array classes, and dictionary classes with names that end in ``d``."""

from medssl_monai.transforms.ct_window import CTWindow, CTWindowd
from medssl_monai.transforms.device_views import DeviceViews
from medssl_monai.transforms.draws import sample_generator
from medssl_monai.transforms.intensity import view_channels
from medssl_monai.transforms.labelled import LabelledParameters, LabelledView, LabelledViewd
from medssl_monai.transforms.masked_view import SparKParameters, SparKViews, SparKViewsd
from medssl_monai.transforms.multi_crop import MultiCropParameters, MultiCropViews, MultiCropViewsd, TwoViews, TwoViewsd
from medssl_monai.transforms.recipe import ViewParameters, ViewRecipe
from medssl_monai.transforms.spatial import Crop, resample

__all__ = [
    "CTWindow",
    "CTWindowd",
    "Crop",
    "DeviceViews",
    "LabelledParameters",
    "LabelledView",
    "LabelledViewd",
    "MultiCropParameters",
    "MultiCropViews",
    "MultiCropViewsd",
    "SparKParameters",
    "SparKViews",
    "SparKViewsd",
    "TwoViews",
    "TwoViewsd",
    "ViewParameters",
    "ViewRecipe",
    "resample",
    "sample_generator",
    "view_channels",
]
