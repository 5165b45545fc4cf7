"""Predict clinical files or pictures with a fine-tuned run: tables, heat maps, and DICOM objects on request."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from medssl_monai.classify.explain import grad_cam, occlusion_map
from medssl_monai.classify.heat_maps import HeatMap, choose_rows, draw_heat_map, on_slice, windowed_slice
from medssl_monai.classify.inputs import Fetched, fetched, source_names
from medssl_monai.classify.pictures.inputs import PictureInput
from medssl_monai.classify.prediction_result import PredictionResult
from medssl_monai.errors import InputError, NotHounsfieldError
from medssl_monai.ingest.sources.paths import is_picture_file
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.settings import check_folder

logger = logging.getLogger(__name__)

HEAT_MAPS = "heat_maps"


@dataclass(frozen=True)
class PredictionOptions:
    """What a prediction gives beside its tables.

    Attributes:
        heat_maps: slices of each study that are drawn with Grad-CAM.
        occlusion: draw occlusion beside it (some 200 forward passes a slice).
        dicom_out: folder for a DICOM report and picture of each study, which hold the patient's identity.
        names: whether paths of sources are written into the results; they may name a patient.
        query: QIDO-RS attributes, for DICOMweb sources.
        verify_tls: whether a PACS's certificate is verified.
    """

    heat_maps: int = 0
    occlusion: bool = False
    dicom_out: Path | None = None
    names: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    verify_tls: bool = True


def predict_studies(
    run: Path,
    settings: Mapping[str, Any],
    sources: Sequence[str | Path],
    out: Path,
    options: PredictionOptions | None = None,
    **overrides: Any,
) -> PredictionResult:
    """Classify what the sources hold, and write `PredictionResult`'s files into ``out``; see `predict_run`."""
    options = options or PredictionOptions()
    pictures = is_picture_run(settings)
    if options.dicom_out is not None:
        _check_dicom_out(options.dicom_out, pictures)
    with fetched(sources, options.query, verify_tls=options.verify_tls) as local:
        if pictures:
            work = _picture_run(run, settings, local, out, overrides)
        else:
            work = _slice_run(run, local, out, overrides)
        result = work.result
        if options.names:
            known = work.input.names if isinstance(work.input, PictureInput) else source_names(local.paths, work.input)
            result = replace(result, names=known)
            result.write(out)
        count = options.heat_maps or (options.dicom_out is not None)
        maps = _heat_maps(work, settings, int(count), options.occlusion) if count else []
        _remove_heat_maps(out / HEAT_MAPS)
        if options.heat_maps:
            for one in maps:
                draw_heat_map(one, out / HEAT_MAPS / f"{one.series}_slice-{one.slice:04d}.png")
        if options.dicom_out is not None:
            from medssl_monai.classify.dicom.report import write_dicom

            write_dicom(result, maps, local.paths, work.input, options.dicom_out, run)
    return result


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


def _slice_run(run: Path, local: Fetched, out: Path, overrides: Mapping[str, Any]) -> _Work:
    if local.paths and all(path.is_file() and is_picture_file(path) for path in local.paths):
        raise NotHounsfieldError(
            f"{local.paths[0]}: this run was fine-tuned on CT in Hounsfield units, which a picture does not have; give "
            "the DICOM or NIfTI files that it was made from, or a run fine-tuned on pictures"
        )
    content = {"dataset_dir": [str(path) for path in local.paths], "left_out": local.left_out}
    return _run(run, {**content, "output_dir": str(out), **overrides}, None)


def _picture_run(
    run: Path, settings: Mapping[str, Any], local: Fetched, out: Path, overrides: Mapping[str, Any]
) -> _Work:
    view = ConfigParser(dict(settings)).get_parsed_content("validate#preprocessing")
    dataset = PictureInput(local.paths, view)
    source = {"source": dataset, "dataset": dataset, "preprocessing": None}
    return _run(run, {**source, "output_dir": str(out), **overrides}, dataset)


def _run(run: Path, content: Mapping[str, Any], given: Any) -> _Work:
    workflow = run_bundle(
        [run / "configs" / "inference.yaml", run / "configs" / "predict.yaml"],
        {"bundle_root": str(run), **content},
        workflow_type="infer",
    )
    source, dataset, network, handlers = (
        workflow.parser.get_parsed_content(name) for name in ("source", "dataset", "network", "handlers")
    )
    return _Work(given or source, dataset, network, handlers[0].result)


def _remove_heat_maps(folder: Path) -> None:
    """What an earlier prediction left there is of other patients; files of other names are not ours."""
    for path in folder.glob("*.png"):
        if re.fullmatch(r"[\w-]+_slice-\d{4,}\.png", path.name):
            path.unlink()


def _heat_maps(work: _Work, settings: Mapping[str, Any], count: int, occlusion: bool) -> list[HeatMap]:
    """Of each study the slices worth a look."""
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
    if isinstance(work.input, PictureInput):
        picture, shown, fitted = work.input.picture(index).transpose(1, 2, 0), "picture", False
    else:
        row = work.input.rows[index]
        hu, fitted = work.input.store.read(series, number), True
        picture, shown = windowed_slice(hu, settings["window"], row["window_level"], row["window_width"])
        if row["spacing_row_mm"] and row["spacing_column_mm"]:
            spacing = (row["spacing_row_mm"], row["spacing_column_mm"])
    shape = (picture.shape[0], picture.shape[1])
    hidden = None
    if occlusion:
        found = occlusion_map(work.network, view, asked, patch=max(8, view.shape[-1] // 7), task=result.task)
        hidden = on_slice(found, shape, fitted=fitted)
    return HeatMap(
        series,
        number,
        picture,
        on_slice(grad_cam(work.network, view, asked), shape, fitted=fitted),
        hidden,
        result.classes[asked],
        float(result.probabilities[index][asked]),
        "unlike the training slices, not classified" if result.flagged[index] else "",
        spacing,
        shown,
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
