"""MONAI Label's tasks: prediction, training, and the choice of the next study. Needs MONAI Label."""

import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from medssl_monai.errors import ConfigError, InputError, NoImagesError
from medssl_monai.label_server.choice import STRATEGIES, diversity, novelty, uncertainty
from medssl_monai.label_server.networks import Look, ServedNetwork
from medssl_monai.label_server.predictions_cache import PredictionsCache
from medssl_monai.label_server.records import FINAL, PREDICTED, Records
from medssl_monai.label_server.studies import Studies, passing_store, usable_rows
from medssl_monai.label_server.training import START_FROM, last_finetuning, train_classifier, train_encoder
from medssl_monai.label_server.volumes import evidence_volume, write_volume
from medssl_monai.label_server.workspace import Workspace
from medssl_monai.runs.pretrain import METHODS

logger = logging.getLogger(__name__)

LOOKS_A_REQUEST = 20
"""How many new studies one choice may pass through the network."""


class _Ask(InferTask):  # type: ignore[misc]
    """Base of the two prediction tasks."""

    def __init__(self, kind: str, description: str, workspace: Workspace, studies: Studies, network: ServedNetwork):
        super().__init__(type=kind, labels={}, dimension=2, description=description, config={})
        self.workspace, self.studies, self.network = workspace, studies, network
        self.cache = PredictionsCache(workspace, studies, network)

    def is_valid(self) -> bool:
        """Whether a complete classifier is served."""
        return self.network.usable

    def get_path(self, validate: bool = True) -> str | None:
        """The weights that are served."""
        return str(self.network.file) if self.network.exists else None

    @contextmanager
    def _rows(self, request: Mapping[str, Any]) -> Any:
        """The requested slices, and their store: the server's, or one of an uploaded file."""
        image = str(request["image"])
        if request.get("uploaded"):
            with passing_store(Path(image), self.studies.settings, self.studies.key, self.workspace.tmp) as store:
                yield store, _one_slice(usable_rows(store, store.series_ids, self.studies.settings), request)
        else:
            rows = _one_slice(self.studies.rows(image), request)  # may fetch, so this comes before the store is opened
            yield self.studies.store, rows


class ClassifyStudy(_Ask):
    """Probabilities of a study (pooled over its slices) and of each slice; ``slice`` selects a single one."""

    def __init__(self, workspace: Workspace, studies: Studies, network: ServedNetwork) -> None:
        text = "Classifies a study, or one slice of it, with a probability for each class"
        super().__init__(InferType.CLASSIFICATION, text, workspace, studies, network)

    def info(self) -> dict[str, Any]:
        """For ``/info/``; labels are those of the classifier that is served now."""
        return {**super().info(), "labels": {name: i for i, name in enumerate(self.network.view.classes)}}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """MONAI Label's form: no file, and ``prediction`` as its other classifiers give it."""
        began = time.monotonic()
        if request.get("uploaded") or request.get("slice") is not None:
            with self._rows(request) as (store, rows):
                look = self.network.look(store, rows)
        else:
            look = self.cache.look(str(request["image"]))
        return None, {**_answer(look, self.network.view.classes), **_timing(began)}


class ShowEvidence(_Ask):
    """Grad-CAM for the most probable class (or ``class``), as a label map over the study."""

    def __init__(self, workspace: Workspace, studies: Studies, network: ServedNetwork) -> None:
        text = "Marks what spoke for the predicted class (Grad-CAM; not a segmentation of a finding)"
        super().__init__(InferType.SEGMENTATION, text, workspace, studies, network)
        self.dimension = 3
        self.labels = {"evidence": 1}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """A file on the study's grid: pixels from ``threshold`` (0.5) of the maximum, or the map itself for null."""
        began = time.monotonic()
        classes = self.network.view.classes
        with self._rows(request) as (store, rows):
            look = self.network.look(store, rows)
            asked = request.get("class")
            if asked is not None and asked not in classes:
                raise ConfigError(f"class: must be one of {', '.join(classes)}, found {str(asked)[:40]!r}; choose one")
            index = int(look.study.argmax()) if asked is None else classes.index(asked)
            maps = self.network.evidence(store, rows, index)
            series = max({row["series_id"] for row in rows}, key=[row["series_id"] for row in rows].count)
            threshold = request.get("threshold", 0.5)
            volume = evidence_volume(store, series, rows, maps, None if threshold is None else float(threshold))
            suffix = ".nrrd" if request.get("result_extension") == ".nrrd" else ".nii.gz"
            with tempfile.NamedTemporaryFile(suffix=suffix, prefix="evidence-", delete=False) as file:
                path = Path(file.name)
            write_volume(store, series, volume, path)
        answer = {**_answer(look, classes), "evidence_for": classes[index], **_timing(began)}
        return str(path), {**answer, "label_names": {"evidence": 1}}


class ClassifyAll(BatchInferTask):  # type: ignore[misc]
    """Classifies many studies one by one; the answers are kept with each image under the tag ``original``."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def __call__(self, request: Mapping[str, Any], datastore: Any, infer: Callable[..., Any]) -> dict[str, Any]:
        """Results by image id, as MONAI Label expects. An image that cannot be classified has an ``error``."""
        ids = self.get_images(request, datastore)
        limit = int(request.get("max_batch_size") or 0)
        ids = ids[:limit] if limit > 0 else ids
        results: dict[str, Any] = {}
        for number, image_id in enumerate(ids, start=1):
            try:
                answer = infer({"model": request["model"], "image": image_id}, datastore)["params"]
            except InputError as error:
                answer = {"error": str(error)}
            results[image_id] = answer
            self._keep(datastore, image_id, answer, str(request.get("label_tag") or PREDICTED))
            print(f"classified {number} of {len(ids)}", flush=True)
        return results

    def _keep(self, datastore: Any, image_id: str, answer: dict[str, Any], tag: str) -> None:
        if tag == FINAL or "prediction" not in answer:  # a prediction never becomes a user's label
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "prediction.json"
            file.write_text(json.dumps({"prediction": answer["prediction"]}), encoding="utf-8")
            datastore.save_label(image_id, str(file), tag, {})


class Finetuning(TrainTask):  # type: ignore[misc]
    """Fine-tunes on the final labels, then serves the result."""

    def __init__(self, workspace: Workspace, studies: Studies, records: Records) -> None:
        super().__init__("Fine-tune the classifier on the labels that users gave (tag final)")
        self.workspace, self.studies, self.records = workspace, studies, records

    def config(self) -> dict[str, Any]:
        """Options for clients; the first of a list is the default."""
        return {
            "max_epochs": 20,
            "batch_size": 16,
            "learning_rate": 1e-4,
            "frozen_epochs": 5,
            "val_split": 0.2,
            "start_from": ["default", *START_FROM],
        }

    def stats(self) -> dict[str, Any]:
        """Of the run that is served."""
        return last_finetuning(self.workspace)

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Train in a separate process, which MONAI Label starts, monitors and stops."""
        return train_classifier(
            self.workspace, self.studies, self.records, {**_chosen(self.config()), **_chosen(request)}
        )


class Pretraining(TrainTask):  # type: ignore[misc]
    """Pre-trains an encoder on every study, labelled or not; fine-tuning may start from it."""

    def __init__(self, workspace: Workspace, studies: Studies) -> None:
        super().__init__("Pre-train an encoder on all studies, without labels")
        self.workspace, self.studies = workspace, studies

    def config(self) -> dict[str, Any]:
        """Options for clients; the first of a list is the default."""
        return {"method": list(METHODS), "max_epochs": 100, "batch_size": 32}

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """As `Finetuning`."""
        return train_encoder(self.workspace, self.studies, {**_chosen(self.config()), **_chosen(request)})


class ChooseNext(Strategy):  # type: ignore[misc]
    """Suggests the unlabelled study with the largest score of a strategy.

    Args:
        name: of `STRATEGIES`.
        studies: of the server.
        records: of the server.
        caches: outputs of the classifier, then of the encoders; the first one with a network is used.
    """

    def __init__(self, name: str, studies: Studies, records: Records, caches: list[PredictionsCache]) -> None:
        super().__init__(STRATEGIES[name])
        self.name, self.studies, self.records, self.caches = name, studies, records, caches

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """``id`` with its ``score``, and the number of unlabelled studies that were compared.

        At most `LOOKS_A_REQUEST` new studies are passed through the network; a batch inference covers all.
        """
        cache = next((one for one in self.caches if one.network.exists), None)
        if cache is None or (self.name == "uncertain" and not cache.network.view.classes):
            raise ConfigError(
                f"strategy {self.name}: needs a network, and none has been trained yet; train one, or use random"
            )
        left = LOOKS_A_REQUEST
        looks: dict[str, Look] = {}
        unlabelled = datastore.get_unlabeled_images()
        for image_id in [*datastore.get_labeled_images(), *unlabelled]:
            found = cache.known(image_id)
            if found is None and left > 0:
                left -= 1
                try:
                    found = cache.look(image_id)
                except NoImagesError:
                    continue
            if found is not None:
                looks[image_id] = found
        candidates = [one for one in unlabelled if one in looks]
        if not candidates:
            return None
        scores = self._scores(candidates, looks)
        best = int(scores.argmax())
        return {
            "id": candidates[best],
            "name": candidates[best],
            "score": round(float(scores[best]), 6),
            "considered": len(candidates),
            "unlabelled": len(unlabelled),
        }

    def _scores(self, candidates: list[str], looks: Mapping[str, Look]) -> Any:
        if self.name == "uncertain":
            return uncertainty(
                [looks[one].study for one in candidates],
                exclusive=all(one.task == "multiclass" for one in looks.values()),
            )
        features = [looks[one].features for one in candidates]
        labelled = [look.features for one, look in looks.items() if one not in candidates]
        if self.name == "unlike_labelled":
            return novelty(features, labelled)
        suggested = [looks[one].features for one in candidates if self._was_suggested(one)]
        return diversity(features, [*labelled, *suggested])

    def _was_suggested(self, image_id: str) -> bool:
        info = self.records.read(self.studies.record_name(image_id))["info"]
        return self.name in info.get("strategy", {})


class ChooseAny(Strategy):  # type: ignore[misc]
    """Suggests any unlabelled study; those suggested long ago are more likely.

    MONAI Label's own fails if all unlabelled studies were suggested within the last second.
    """

    def __init__(self) -> None:
        super().__init__("any study")

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any] | None:
        """``id``, or None if every study is labelled."""
        unlabelled = datastore.get_unlabeled_images()
        if not unlabelled:
            return None
        suggested = [datastore.get_image_info(one).get("strategy", {}).get("random", {}) for one in unlabelled]
        seconds = [max(1, int(time.time()) - one.get("ts", 0)) for one in suggested]
        (chosen,) = random.choices(unlabelled, weights=seconds)
        return {"id": chosen, "name": chosen, "unlabelled": len(unlabelled)}


def _one_slice(rows: list[dict[str, Any]], request: Mapping[str, Any]) -> list[dict[str, Any]]:
    number = request.get("slice")
    if number is None:
        return rows
    chosen = [row for row in rows if isinstance(number, int) and row["slice"] == number]
    if not chosen:
        first, last = rows[0]["slice"], rows[-1]["slice"]
        raise ConfigError(f"slice: must be one of {first} to {last}, counted from the lowest, found {number!r}")
    return chosen[:1]


def _answer(look: Look, classes: tuple[str, ...]) -> dict[str, Any]:
    assert look.probabilities is not None
    study = [{"idx": i, "label": name, "score": float(look.study[i])} for i, name in enumerate(classes)]
    slices = [
        {"slice": number, "scores": [round(float(p), 6) for p in row]}
        for number, row in zip(look.slices, look.probabilities, strict=True)
    ]
    return {
        "prediction": study,
        "pooling": look.pooling,
        "slices": slices,
        "label_names": {name: i for i, name in enumerate(classes)},
        "centroids": {},
    }


def _timing(began: float) -> dict[str, Any]:
    return {"latencies": {"total": round(time.monotonic() - began, 3)}}


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Clients return lists of choices unchanged: the first entry counts. ``default`` leaves a choice open."""
    chosen = {
        k: v[0] if isinstance(v, list) and k in ("method", "start_from", "device") else v for k, v in options.items()
    }
    return {k: v for k, v in chosen.items() if v != "default"}
