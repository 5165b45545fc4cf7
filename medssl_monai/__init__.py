"""Self-supervised pre-training of CT encoders, and classifiers from few labels.

The names below are the public face. Each is imported when it is first used, so that ``import medssl_monai`` alone costs
nothing. Everything else is reached through its module.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medssl_monai.errors import InputError as InputError
from medssl_monai.errors import MedSSLError as MedSSLError
from medssl_monai.version import __version__ as __version__

if TYPE_CHECKING:
    from medssl_monai.checkpoints.load import load_encoder as load_encoder
    from medssl_monai.checkpoints.load import load_into_resnet as load_into_resnet
    from medssl_monai.checkpoints.run_export import export_run as export_run
    from medssl_monai.checkpoints.unet import load_into_unet as load_into_unet
    from medssl_monai.classify.evaluate import evaluate as evaluate
    from medssl_monai.classify.finetune import finetune as finetune
    from medssl_monai.classify.predict import predict as predict
    from medssl_monai.experiment.run import study as study
    from medssl_monai.ingest.open_store import open_store as open_store
    from medssl_monai.ingest.pipeline import build_store as build_store
    from medssl_monai.labels.table import read_labels as read_labels
    from medssl_monai.methods.byol import BYOL as BYOL
    from medssl_monai.methods.moco import MoCo as MoCo
    from medssl_monai.methods.spark import SparK as SparK
    from medssl_monai.methods.swav import SwAV as SwAV
    from medssl_monai.runs.pretrain import pretrain as pretrain
    from medssl_monai.store.dataset import SliceDataset as SliceDataset
    from medssl_monai.store.reader import SliceStore as SliceStore

_MODULES = {
    "BYOL": "methods.byol",
    "MoCo": "methods.moco",
    "SliceDataset": "store.dataset",
    "SliceStore": "store.reader",
    "SparK": "methods.spark",
    "SwAV": "methods.swav",
    "build_store": "ingest.pipeline",
    "evaluate": "classify.evaluate",
    "export_run": "checkpoints.run_export",
    "finetune": "classify.finetune",
    "load_encoder": "checkpoints.load",
    "load_into_resnet": "checkpoints.load",
    "load_into_unet": "checkpoints.unet",
    "open_store": "ingest.open_store",
    "predict": "classify.predict",
    "pretrain": "runs.pretrain",
    "read_labels": "labels.table",
    "study": "experiment.run",
}

__all__ = [*_MODULES, "InputError", "MedSSLError", "__version__"]


def __getattr__(name: str) -> Any:
    """Import a name of the face when it is first asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
