"""Run a bundle's configuration in this process: what the command line does instead of starting another Python."""

import importlib.util
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from medssl_monai.errors import TRACEBACK, ConfigError, MedSSLError
from medssl_monai.runs.settings import check_settings

logger = logging.getLogger(__name__)

_COMPONENT = re.compile(r"Failed to instantiate component '(?P<name>[^']*)' with keywords: (?P<keys>.*)")


def run_bundle(
    config_files: Sequence[Path], overrides: Mapping[str, Any], *, workflow_type: str = "train"
) -> ConfigWorkflow:
    """Initialise, run and finalise a MONAI bundle, as ``python -m monai.bundle run`` would.

    Args:
        config_files: the bundle's file first, then overlays; later files win.
        overrides: top-level keys.
        workflow_type: ``train`` or ``infer``, which decides the properties that MONAI looks for.

    Returns:
        The finished workflow, whose parser gives access to everything that was built.

    Raises:
        ConfigError: an override names a key that the files do not have; a setting cannot be, see `check_settings`; or
            a component cannot be made from its settings.
        MedSSLError: what a component raised on purpose, freed from the wrapping of MONAI's configuration parser.
    """
    content = ConfigParser.load_config_files([str(p) for p in config_files])
    if overrides.get("tracking", content.get("tracking")) is not None:
        overrides = {**overrides, "tracking": _tracking(overrides.get("tracking", content.get("tracking")))}
    for key in overrides:
        if key not in content:
            known = ", ".join(k for k, v in content.items() if not isinstance(v, dict) and not k.startswith("_"))
            raise ConfigError(f"{key!r} is not a key of {config_files[0].name}; the keys are {known}")
    check_settings({**content, **overrides})
    try:
        workflow = ConfigWorkflow(
            config_file=[str(p) for p in config_files],
            workflow_type=workflow_type,
            meta_file=str(config_files[0].parent / "metadata.json"),
            logging_file=False,
            **overrides,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        raise _cause(error) from error
    return workflow


def _tracking(name: Any) -> str:
    """What MONAI's workflow takes as ``tracking``, and adds handlers for."""
    if name != "mlflow":
        raise ConfigError(f"tracking: must be mlflow or null (TensorBoard's files are always written), found {name!r}")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError("tracking=mlflow: needs the package mlflow; install it by pip install 'medssl-monai[mlflow]'")
    return str(name)


def _cause(error: BaseException) -> BaseException:
    """The first error of ours in a chain, which MONAI wraps in RuntimeErrors that name ids; else the error itself.

    Where a component could not be made, one of ours that names it.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, (MedSSLError, KeyboardInterrupt)):
            return link
        link = link.__cause__ or link.__context__
    component, link = None, error
    while isinstance(link, RuntimeError) and link.__cause__ is not None and str(link).startswith("Failed to "):
        component = _COMPONENT.match(str(link)) or component
        link = link.__cause__
    if component is None:
        return error
    logger.debug("the whole error", exc_info=error)
    text = " ".join(str(link).split())[:300]
    return ConfigError(
        f"{component['name'].rsplit('.', 1)[-1]} cannot be made with the {component['keys'].replace(',', ', ')} given "
        f"({type(link).__name__}: {text}); correct these settings ({TRACEBACK}=1 shows where it came from)"
    )


logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
