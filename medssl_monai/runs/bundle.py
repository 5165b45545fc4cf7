"""Run a bundle's configuration in this process: what the command line does instead of starting another Python."""

import importlib.util
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from medssl_monai.errors import TRACEBACK, ConfigError, MedSSLError, suggestion
from medssl_monai.mappings import read_mapping
from medssl_monai.runs.keys import FOR_BUNDLES, MONAI_KEYS, check_keys
from medssl_monai.runs.settings import PLACES, TEXTS, check_settings, literal, literal_text

logger = logging.getLogger(__name__)

_UNDEFINED = re.compile(
    r"the referring item `@(?P<name>[^`]*)` is not defined|id='(?P<id>[^']*)' is not found in the con"
)
_COMPONENT = re.compile(r"Failed to instantiate component '(?P<name>[^']*)' with keywords: (?P<keys>.*)")


def run_bundle(
    config_files: Sequence[Path], overrides: Mapping[str, Any], *, workflow_type: str = "train"
) -> ConfigWorkflow:
    """Initialise, run and finalise a MONAI bundle, as ``python -m monai.bundle run`` would.

    Args:
        config_files: the bundle's file first, then overlays; later files win.
        overrides: top-level keys. Those of `PLACES` are taken as they stand, whatever characters a path has.
        workflow_type: ``train`` or ``infer``, which decides the properties that MONAI looks for.

    Returns:
        The finished workflow, whose parser gives access to everything that was built.

    Raises:
        ConfigError: a file is no mapping; an overlay or an override names a key that the bundle does not have, see
            `check_keys`; a setting cannot be, see `check_settings`; or a component cannot be made from its settings.
        MedSSLError: what a component raised on purpose, freed from the wrapping of MONAI's configuration parser.
    """
    content, bundle = checked_files(config_files)
    if overrides.get("tracking", content.get("tracking")) is not None:
        overrides = {**overrides, "tracking": _tracking(overrides.get("tracking", content.get("tracking")))}
    for key in overrides:
        if key not in content:
            known = [k for k, v in content.items() if not isinstance(v, dict) and not k.startswith("_")]
            where = f"`medssl keys {bundle}` lists the keys" if bundle else f"the keys are {', '.join(known)}"
            raise ConfigError(
                f"{key!r} is not a key of {bundle or config_files[0].name}{suggestion(key, known)}; {where}"
            )
    check_settings({**content, **overrides})
    places = {key: literal(overrides[key]) for key in (*PLACES, "overlays") if key in overrides}
    places |= {key: literal_text(overrides[key]) for key in TEXTS if isinstance(overrides.get(key), str)}
    try:
        with _quiet_monai():
            workflow = ConfigWorkflow(
                config_file=[str(p) for p in config_files],
                workflow_type=workflow_type,
                meta_file=str(config_files[0].parent / "metadata.json"),
                logging_file=False,
                **{**overrides, **places},
            )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise cause_of(error) from error
    return workflow


def checked_files(config_files: Sequence[Path]) -> tuple[dict[str, Any], str]:
    """A bundle's file and overlays merged, once each overlay is found to be for the bundle and to set keys of it alone.

    Returns:
        What was merged, without keys that an overlay sets for other bundles; and the bundle, "" where the files do not
        name one.

    Raises:
        ConfigError: an overlay is refused by `check_keys`, or cannot be merged.
    """
    own = [file for file in config_files if file.parent == config_files[0].parent]
    content = _merged(own)
    steps = [*content.get("initialize", ()), *content.get("run", ())]
    bundle: str = next((step["bundle"] for step in steps if isinstance(step, dict) and "bundle" in step), "")
    for overlay in (file for file in config_files if file not in own and bundle):
        check_keys(_merged([*own, overlay]), bundle, overlay.name)
    merged = _merged(config_files)
    kept = {key: v for key, v in merged.items() if key in content or key in MONAI_KEYS or key.startswith("_")}
    return {key: v for key, v in (kept if bundle else merged).items() if key != FOR_BUNDLES}, bundle


def _merged(files: Sequence[Path]) -> dict[str, Any]:
    for file in files:
        read_mapping(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # MONAI warns of a key given twice, and takes the second
            content: dict[str, Any] = ConfigParser.load_config_files([str(file) for file in files])
    except (ValueError, KeyError, UserWarning) as error:
        told = " ".join(str(error).split())[:200]
        names = ", ".join(file.name for file in files)
        raise ConfigError(f"{names}: cannot be merged ({told}); correct the last") from error
    return content


def _tracking(name: Any) -> str:
    """What MONAI's workflow takes as ``tracking``, and adds handlers for."""
    if name != "mlflow":
        raise ConfigError(f"tracking: must be mlflow or null (TensorBoard's files are always written), found {name!r}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("tracking=mlflow: needs the package mlflow; install it by pip install 'medssl-monai[mlflow]'")
    return str(name)


def cause_of(error: BaseException) -> BaseException:
    """What a user can mend in an error that MONAI wrapped in RuntimeErrors that name ids, as one of ours; else itself.

    That is the first error of ours in the chain; or a reference to a key that is not there; or an expression or a
    component that the settings given do not make.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, (MedSSLError, KeyboardInterrupt)):
            return link
    failed: str | None = None
    for link in chain:
        if undefined := _UNDEFINED.search(str(link)):
            name = undefined["name"] or undefined["id"]
            return ConfigError(f"the configuration refers to @{name}, which it does not define; correct the reference")
        if isinstance(link, SyntaxError) or (isinstance(link, NameError) and _is_in_expression(link)):
            return ConfigError(
                f"an expression of the configuration cannot be evaluated ({type(link).__name__}: {link}); correct it, "
                "and write a path that begins with $ as ./$"
            )
        if not (isinstance(link, RuntimeError) and str(link).startswith("Failed to ")):
            break
        if component := _COMPONENT.match(str(link)):
            name, keys = component["name"].rsplit(".", 1)[-1], component["keys"].replace(",", ", ")
            failed = f"{name} cannot be made with the {keys} given"
    if failed is None:
        return error
    if _is_ours(link):
        return ConfigError(str(link))
    logger.debug("the whole error", exc_info=error)
    text = " ".join(str(link).split())[:300]
    return ConfigError(
        f"{failed} ({type(link).__name__}: {text}); correct these settings ({TRACEBACK}=1 shows where it came from)"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_ours(error: BaseException) -> bool:
    """Whether this package refused a value, in a sentence that names it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__")) if frames else ""
    return type(error) is ValueError and module.startswith("medssl_monai.")


def _is_in_expression(error: BaseException) -> bool:
    """Whether it was raised by an expression of a configuration itself, not by code that one calls."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename == "<string>"


@contextmanager
def _quiet_monai() -> Iterator[None]:
    """Without MONAI's warnings that overlays lie elsewhere and that no logging file is used."""
    workflows = logging.getLogger("monai.bundle.workflows")
    before = workflows.level
    workflows.setLevel(logging.ERROR)
    try:
        yield
    finally:
        workflows.setLevel(before)
