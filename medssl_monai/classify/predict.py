"""Predict clinical files or pictures with a fine-tuned run: tables, heat maps, and DICOM objects on request."""

import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from monai.bundle import ConfigParser

from medssl_monai.classify.answers import answer_table
from medssl_monai.classify.explain import grad_cam, occlusion_map
from medssl_monai.classify.heat_maps import HeatMap, choose_rows, draw_heat_map, on_slice, windowed_slice
from medssl_monai.classify.inputs import Fetched, fetched
from medssl_monai.classify.pictures.inputs import PictureInput
from medssl_monai.classify.prediction_result import PredictionResult
from medssl_monai.errors import InputError, NotHounsfieldError
from medssl_monai.ingest.sources.paths import is_picture_file
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.folder import run_settings
from medssl_monai.runs.settings import check_folder, check_results_folder, place_given
from medssl_monai.store.names_file import paths_of

logger = logging.getLogger(__name__)

HEAT_MAPS = "heat_maps"


@dataclass(frozen=True)
class PredictionOptions:
    """What a prediction gives beside its tables.

    Attributes:
        heat_maps: slices of each study that are drawn with Grad-CAM.
        occlusion: draw occlusion beside it (some 200 forward passes a slice).
        dicom_out: folder for a DICOM report and picture of each study, which hold the patient's identity.
        names: True writes the paths of sources into the results, and the names file of a store (see
            `store.names_file`) those of its series; they may name a patient. Pictures are always named.
        query: QIDO-RS attributes, for DICOMweb sources.
        verify_tls: whether a PACS's certificate is verified.
    """

    heat_maps: int = 0
    occlusion: bool = False
    dicom_out: Path | None = None
    names: bool | str | Path = False
    query: Mapping[str, str] = field(default_factory=dict)
    verify_tls: bool = True


@dataclass(frozen=True)
class Prediction:
    """A finished prediction.

    Attributes:
        folder: with ``prediction.json``, ``predictions.csv``, ``studies.csv``, ``studies.json`` and ``left_out.csv``.
        studies: one entry a series, the content of ``studies.json``.
        slices: one row a slice, with a column ``p_CLASS`` for each class.
        left_out: what was not classified, and why.
        about: task, classes, temperature, out-of-distribution rule and pooling, as in ``prediction.json``.
    """

    folder: Path
    studies: list[dict[str, Any]]
    slices: pa.Table
    left_out: list[dict[str, Any]]
    about: Mapping[str, Any]


def predict(
    run: str | Path,
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    options: PredictionOptions | None = None,
    **overrides: Any,
) -> Prediction:
    """Classify clinical files by a run's ``inference.yaml`` and ``predict.yaml``.

    Args:
        run: folder of a fine-tuning run.
        sources: one store; or files, folders and archives of DICOM, NIfTI and the like, or DICOMweb addresses of
            studies, which go through ingestion first; or pictures, for a run that was fine-tuned on pictures.
        out: folder for the tables, see `PredictionResult.write`.
        options: heat maps and DICOM objects.
        overrides: top-level keys of the bundle.

    Raises:
        CheckpointError: ``run`` is no finished fine-tuning run.
        NoImagesError: the sources hold nothing that this run could classify; NotHounsfieldError: they are pictures,
            and the run is for HU.
        InputError: a source does not exist, or a PACS does not answer.
        ConfigError: `out` holds something other than a prediction.

    Example:
        >>> prediction = predict("runs/head", ["study.zip"], "out")
        >>> prediction.studies[0]["predicted"], prediction.slices.to_pandas().head()
    """
    folder, options = Path(place_given(out, "out")), options or PredictionOptions()
    settings = run_settings(Path(place_given(run, "run")))
    pictures = is_picture_run(settings)
    check_results_folder(folder, "a prediction")
    if options.dicom_out is not None:
        _check_dicom_out(options.dicom_out, pictures)
    given = [sources] if isinstance(sources, (str, Path)) else sources
    with (
        fetched(given, options.query, verify_tls=options.verify_tls) as local,
        tempfile.TemporaryDirectory(prefix="medssl-predict-") as private,
    ):
        if pictures:
            work = _picture_work(Path(run), settings, local, folder, overrides)
        else:
            overrides = {"cache_dir": private, "headers": options.dicom_out is not None, **overrides}
            work = _slice_work(Path(run), local, folder, overrides)
        result = work.result
        if names := _names(work.input, options.names, local.addresses):
            result = replace(result, names=names)
            result.write(folder)
        count = options.heat_maps or (options.dicom_out is not None)
        maps = _heat_maps(work, settings, int(count), options.occlusion) if count else []
        _remove_heat_maps(folder / HEAT_MAPS)
        if options.heat_maps:
            for one in maps:
                draw_heat_map(one, folder / HEAT_MAPS / f"{one.series}_slice-{one.slice:04d}.png")
        if options.dicom_out is not None:
            from medssl_monai.classify.dicom.report import write_dicom

            write_dicom(result, maps, work.input, options.dicom_out, Path(run))
    content = result.as_json()
    about = {key: value for key, value in content.items() if key not in ("studies", "slices", "left_out")}
    return Prediction(folder, content["studies"], answer_table(content["slices"]), content["left_out"], about)


def _names(source: Any, wanted: bool | str | Path, addresses: Mapping[str, str]) -> dict[str, str]:
    """Paths by pseudonym; what was fetched from a PACS has its address."""
    if isinstance(source, PictureInput):
        return source.names
    if not wanted:
        return {}
    if isinstance(wanted, bool):
        if not source.names:
            raise InputError(
                f"{source.store.place}: a store holds no paths; give the names file that `medssl ingest --names FILE` "
                "wrote with it (--names FILE)"
            )
        return {pseudonym: _address(path, addresses) for pseudonym, path in source.names.items()}
    if source.names:
        raise InputError(f"--names {wanted}: is for a store; the paths of files are known: give --paths instead")
    left_out = {one["series_id"] or one["source_id"] for one in source.left_out}
    return paths_of(Path(wanted), left_out | {row["series_id"] for row in source.rows})


def _address(path: str, addresses: Mapping[str, str]) -> str:
    return next((addresses[one] for one in (path, *map(str, Path(path).parents)) if one in addresses), path)


def is_picture_run(settings: Mapping[str, Any]) -> bool:
    """Whether a run was fine-tuned on pictures rather than on slices in HU."""
    view = ConfigParser(dict(settings)).get("validate#preprocessing")
    return str(view["_target_"]).endswith(".ImageViewd")


@dataclass(frozen=True)
class _Work:
    """A finished prediction: what was asked, and the parts that answered."""

    input: Any
    dataset: Any
    network: Any
    result: PredictionResult


def _slice_work(run: Path, local: Fetched, out: Path, overrides: Mapping[str, Any]) -> _Work:
    if local.paths and all(path.is_file() and is_picture_file(path) for path in local.paths):
        raise NotHounsfieldError(
            f"{local.paths[0]}: this run was fine-tuned on CT in Hounsfield units, which a picture does not have; give "
            "the DICOM or NIfTI files that it was made from, or a run fine-tuned on pictures"
        )
    content = {"dataset_dir": [str(path) for path in local.paths], "left_out": local.left_out}
    return _run(run, out, {**content, **overrides})


def _picture_work(
    run: Path, settings: Mapping[str, Any], local: Fetched, out: Path, overrides: Mapping[str, Any]
) -> _Work:
    view = ConfigParser(dict(settings)).get_parsed_content("validate#preprocessing")
    dataset = PictureInput(local.paths, view)
    return _run(run, out, {"source": dataset, "dataset": dataset, "preprocessing": None, "finalize": [], **overrides})


def _run(run: Path, out: Path, content: Mapping[str, Any]) -> _Work:
    workflow = run_bundle(
        [run / "configs" / "inference.yaml", run / "configs" / "predict.yaml"],
        {"bundle_root": str(run), "output_dir": str(out), **content},
        workflow_type="infer",
    )
    source, dataset, network, predictions = (
        workflow.parser.get_parsed_content(name) for name in ("source", "dataset", "network", "study_predictions")
    )
    return _Work(source, dataset, network, predictions.result)


def _remove_heat_maps(folder: Path) -> None:
    """What an earlier prediction left there is of other patients; files of other names are not ours."""
    for path in folder.glob("*.png"):
        if re.fullmatch(r"[\w-]+_slice-\d{4,}\.png", path.name):
            path.unlink()


def _heat_maps(work: _Work, settings: Mapping[str, Any], count: int, occlusion: bool) -> list[HeatMap]:
    """The slices to be shown of each series."""
    result = work.result
    place = {(series, number): i for i, (series, number) in enumerate(zip(result.series, result.slices, strict=True))}
    return [
        _heat_map(work, settings, place[result.series[i], result.slices[i]], occlusion)
        for study in result.studies
        for i in choose_rows(result, study["series_id"], count)
    ]


def _heat_map(work: _Work, settings: Mapping[str, Any], index: int, occlusion: bool) -> HeatMap:
    result, view = work.result, work.dataset[index]["image"]
    series, number = result.series[index], result.slices[index]
    asked = int(np.argmax(result.probabilities[index]))
    spacing: tuple[float, float] | None = None
    placed = {"fitted": True}
    if isinstance(work.input, PictureInput):
        picture, shown = work.input.picture(index).transpose(1, 2, 0), "picture"
        placed = {"fitted": False, "transposed": getattr(work.input.transform, "transpose", False)}
    else:
        row = work.input.rows[index]
        hu = work.input.store.read(series, number)
        picture, shown = windowed_slice(hu, settings["window"], row["window_level"], row["window_width"])
        if row["spacing_row_mm"] and row["spacing_column_mm"]:
            spacing = (row["spacing_row_mm"], row["spacing_column_mm"])
    shape = (picture.shape[0], picture.shape[1])
    hidden = None
    if occlusion:
        found = occlusion_map(work.network, view, asked, patch=max(8, view.shape[-1] // 7), task=result.task)
        hidden = on_slice(found, shape, **placed)
    return HeatMap(
        series,
        number,
        picture,
        on_slice(grad_cam(work.network, view, asked), shape, **placed),
        hidden,
        result.classes[asked],
        float(result.probabilities[index][asked]),
        "unlike the training slices, not classified" if result.flagged[index] else "",
        spacing,
        shown,
        Path(work.input.names[series]).name if isinstance(work.input, PictureInput) else series,
    )


def _check_dicom_out(folder: Path, pictures: bool) -> None:
    """Refuse before any work is done.

    Raises:
        InputError: DICOM objects are asked for where there can be none.
    """
    check_folder(folder, "--dicom-out")
    if pictures:
        raise InputError(
            f"--dicom-out {folder}: a report refers to DICOM images, this run takes pictures; leave it out"
        )
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--dicom-out {folder}: needs the package highdicom, which is not installed; "
            "pip install 'medssl-monai[dicom-out]'"
        ) from error
