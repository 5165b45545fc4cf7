"""What a bundle checks first, so that MONAI's own command refuses what ``medssl`` refuses, in one sentence as well."""

import os
import sys
from pathlib import Path
from traceback import walk_stack
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow
from monai.utils import ensure_tuple

from medssl_monai.errors import TRACEBACK, ConfigError, MedSSLError
from medssl_monai.runs.bundle import cause_of, checked_files
from medssl_monai.runs.keys import check_keys
from medssl_monai.runs.settings import PLACES, check_settings


def check_configuration(bundle: str) -> None:
    """Check the configuration that is run, as the first step of its ``initialize`` (or ``run``).

    MONAI gives a step no access to the configuration that it stands in, so the workflow is found on the call stack.
    Where there is none, since the step is evaluated in another way, nothing is checked. What MONAI reads before, such
    as broken YAML, stays MONAI's.

    Args:
        bundle: the bundle that is run, such as ``ct_ssl_spark``.

    Raises:
        ConfigError: the configuration is for other bundles or has unknown keys (`check_keys`), a setting cannot be
            (`check_settings`), no data are given, a site of a federation does not name its classes, or there is no step
            of the name that is run.
    """
    workflow = _running_workflow()
    if workflow is None:
        return
    if _is_monais_command():
        sys.excepthook = _show
    content: dict[str, Any] = workflow.parser.get()
    if files := _config_files():
        merged = ConfigParser.load_config_files([str(file) for file in files])
        kept, _ = checked_files(files)
        # Without what overlays set for other bundles; a key given on the command line has another value.
        content = {key: v for key, v in content.items() if key in kept or key not in merged or v != merged[key]}
    check_keys(content, bundle)
    check_settings(content)
    for name in PLACES & content.keys():
        if "::" in str(content[name]) and not str(content[name]).startswith("$"):
            raise ConfigError(
                f"{name}: MONAI takes no # in a path (it reads {content[name]}); use `medssl`, or another path"
            )
    if workflow.run_id not in content:
        raise ConfigError(f"run {workflow.run_id}: {bundle} has no step of this name; leave the word out")
    given = content.get("train", {}).get("dataset", {}).get("data") or content.get("source")
    if content.get("dataset_dir") is None and not given:
        raise ConfigError("dataset_dir: needs the data to work on, found nothing; give --dataset_dir PATH")
    if content.get("classes", "none") is None and _is_federated():
        raise ConfigError(
            "classes: all sites of a federation need the same classes in the same order, and each site's own labels "
            "would decide, found null; give for instance classes=['brain', 'chest']"
        )


def _is_federated() -> bool:
    """Whether a client of ``monai.fl`` has made the workflow."""
    client: Any = sys.modules.get("monai.fl.client")
    callers = (frame.f_locals.get("self") for frame, _ in walk_stack(None))
    return client is not None and any(isinstance(caller, client.ClientAlgo) for caller in callers)


def _running_workflow() -> ConfigWorkflow | None:
    callers = (frame.f_locals.get("self") for frame, _ in walk_stack(None))
    return next((found for found in callers if isinstance(found, ConfigWorkflow)), None)


def _config_files() -> list[Path]:
    """The files that MONAI's command merges, which a workflow does not keep; none where Python made the workflow."""
    frames = (frame for frame, _ in walk_stack(None) if frame.f_globals.get("__name__") == create_workflow.__module__)
    given = next((frame.f_locals["config_file"] for frame in frames if "config_file" in frame.f_locals), None)
    return [Path(file) for file in ensure_tuple(given)] if given else []


def _is_monais_command() -> bool:
    """Whether this process is ``python -m monai.bundle``, under torchrun or not."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "monai.bundle.__main__"


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An uncaught error as ``medssl`` shows it: in one sentence where the user can mend it."""
    cause = cause_of(error)
    if isinstance(cause, (MedSSLError, KeyboardInterrupt)) and str(cause) and not os.environ.get(TRACEBACK):
        sys.stderr.write(f"monai.bundle: {cause}\n")
    else:
        sys.__excepthook__(kind, error, trace)
