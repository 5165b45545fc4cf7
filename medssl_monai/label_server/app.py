"""The app that MONAI Label's server runs. Needs MONAI Label."""

import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from medssl_monai.label_server import stand_ins

stand_ins.provide()  # before MONAI Label is imported

from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.utils.async_tasks.utils import tasks  # noqa: E402

from medssl_monai.label_server.choice import STRATEGIES  # noqa: E402
from medssl_monai.label_server.datastore import SkippingDatastore, StudiesDatastore  # noqa: E402
from medssl_monai.label_server.form import ReaderForm  # noqa: E402
from medssl_monai.label_server.networks import ServedNetwork  # noqa: E402
from medssl_monai.label_server.predictions_cache import PredictionsCache  # noqa: E402
from medssl_monai.label_server.records import Records  # noqa: E402
from medssl_monai.label_server.refusals import BusyError, UnknownImageError, UnknownTaskError  # noqa: E402
from medssl_monai.label_server.studies import open_studies  # noqa: E402
from medssl_monai.label_server.tasks import (  # noqa: E402
    ChooseAny,
    ChooseNext,
    ClassifyAll,
    ClassifyStudy,
    Finetuning,
    Pretraining,
    ShowEvidence,
)
from medssl_monai.label_server.training import require_labels  # noqa: E402
from medssl_monai.label_server.workspace import Workspace  # noqa: E402
from medssl_monai.version import __version__  # noqa: E402

logger = logging.getLogger(__name__)


class ClassificationApp(MONAILabelApp):  # type: ignore[misc]
    """Classification with few labels: the tasks of a server over one workspace (the app folder's parent)."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.workspace = Workspace(Path(app_dir).resolve().parent)
        self.series = open_studies(self.workspace)
        self.records = Records(self.workspace)
        settings = self.series.settings
        self.network = ServedNetwork(self.workspace.current_model, settings.device)
        self.encoders = [ServedNetwork(self.workspace.pretrained, settings.device, encoder=True)]
        if settings.encoder is not None:
            self.encoders.append(ServedNetwork(Path(settings.encoder), settings.device, encoder=True))
        super().__init__(
            app_dir,
            studies,
            conf,
            name="medssl classification",
            description="Classification of CT studies with few labels. Research only, not a medical device.",
            version=__version__,
        )
        strategies = {name: task.description for name, task in self._strategies.items()}
        self.reader_form = ReaderForm(self.series, self.records, self.network, self._suggest, strategies)

    def init_datastore(self) -> StudiesDatastore:
        """Serve a folder or a PACS through our own datastore."""
        return StudiesDatastore(self.series, self.records)

    def init_infers(self) -> dict[str, Any]:
        """``classification`` and ``evidence``."""
        given = (self.workspace, self.series, self.network)
        return {"classification": ClassifyStudy(*given), "evidence": ShowEvidence(*given)}

    def init_trainers(self) -> dict[str, Any]:
        """``finetuning`` and ``pretraining``."""
        return {
            "finetuning": Finetuning(self.workspace, self.series, self.records),
            "pretraining": Pretraining(self.workspace, self.series),
        }

    def init_strategies(self) -> dict[str, Any]:
        """Those of `STRATEGIES`, and ``random``."""
        caches = [PredictionsCache(self.workspace, self.series, one) for one in (self.network, *self.encoders)]
        ours = {name: ChooseNext(name, self.series, self.records, caches) for name in STRATEGIES}
        return {**ours, "random": ChooseAny()}

    def init_batch_infer(self) -> ClassifyAll:
        """Use our own: MONAI Label's divides by the number of GPUs, and keeps only answers that are files."""
        return ClassifyAll(self.records)

    def _suggest(self, strategy: str, skipped: Collection[str]) -> str | None:
        """As ``POST /activelearning/``, for the reader's form."""
        datastore = SkippingDatastore(self.series, self.records, skipped)
        found = self._strategies[strategy]({"strategy": strategy}, datastore)
        if not found:
            return None
        image_id = str(found["id"])
        known = datastore.get_image_info(image_id).get("strategy", {})
        datastore.update_image_info(image_id, {"strategy": {**known, strategy: {"ts": int(time.time())}}})
        return image_id

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Answer as MONAI Label does, but accept paths of uploads only: a request may name any file of this machine.

        Raises:
            UnknownTaskError: there is no such model.
            UnknownImageError: there is no such image.
        """
        image = str(request.get("image") or "")
        uploaded = self._is_upload(image)
        try:
            task = self._infers.get(request.get("model"))
            if task is None:
                raise UnknownTaskError(f"model {request.get('model')!r}: must be one of {', '.join(self._infers)}")
            if not uploaded:
                self.series.record_name(image)  # raises unless the server has this image
            file, answer = task({**request, "image": image, "uploaded": uploaded})
        finally:
            if uploaded and Path(image).resolve().is_relative_to(self.workspace.tmp.resolve()):
                Path(image).unlink(missing_ok=True)  # MONAI Label deletes it only after a success
        return {"label": file, "tag": "original", "file": file, "params": answer}

    def _is_upload(self, image: str) -> bool:
        """Whether this server made a path for an upload or a session."""
        if "/" not in image:
            return False
        path = Path(image).resolve()
        if not any(path.is_relative_to(own.resolve()) for own in (self.workspace.tmp, self.workspace.sessions)):
            raise UnknownImageError("image: must not be a path; name an image of this server, or send the file itself")
        return path.exists()

    def bundle_path(self, model: str | None) -> None:
        """Refuse a task that cannot work. MONAI Label calls this before it starts a process for the task.

        Raises:
            UnknownTaskError: there is no such model or training.
            BusyError: a training is running or queued. MONAI Label itself notices only a running one.
            LabelError: fine-tuning without labels.
        """
        known = (*self._infers, *self._trainers)
        if model is not None and model not in known:
            raise UnknownTaskError(f"model {model!r}: must be one of {', '.join(known)}")
        if model in self._trainers and any(one["status"] in ("SUBMITTED", "RUNNING") for one in tasks("train")):
            raise BusyError("train: a training is running; GET /train/ shows it, DELETE /train/ stops it")
        if model == "finetuning":
            require_labels(self.series, self.records)

    def info(self) -> dict[str, Any]:
        """What ``/info/`` answers, with the classifier that is served."""
        return {**super().info(), "served": last_served(self)}


def last_served(app: ClassificationApp) -> dict[str, Any]:
    """Name and classes of the classifier that is served; empty without one."""
    if not app.network.usable:
        return {}
    return {"model": app.network.link.resolve().name, "classes": list(app.network.view.classes)}
