"""MLflow tracking, switched on by MONAI's own option (``--tracking mlflow``).

MONAI adds its ``MLFlowHandler`` to the handlers of a bundle. Its defaults expect a decollated list of outputs and
record the whole configuration, including paths of data, which the bundles switch off (``save_execute_config``).
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers.mlflow_handler import MLFlowHandler

from medssl_monai.errors import ConfigError
from medssl_monai.runs.step_log import step_scalars

_LONGEST = 500
"""Characters of a value; MLflow refuses longer ones in some of its stores."""


def complete_tracking(
    tracking: str | None, trainer: Engine, handlers: Sequence[Any], record: Mapping[str, Any] | None
) -> None:
    """Configure MONAI's MLflow handlers to record each step's scalars and the run's settings, versions and fingerprint.

    Paths of data and names of series or patients are not recorded, and no telemetry is sent.

    Args:
        tracking: value in the configuration; ``mlflow`` needs MONAI's handler among `handlers`.
        trainer: the trainer to record.
        handlers: of the trainer; only MLflow's are changed.
        record: result of `record_run`, or None.

    Raises:
        ConfigError: `tracking` is ``mlflow``, but only MONAI's own option can switch it on.
    """
    ours = [handler for handler in handlers if isinstance(handler, MLFlowHandler)]
    if tracking and not ours and not _is_later_rank():
        raise ConfigError(
            f"tracking: {tracking!r} in a file is read by `medssl` alone; under python -m monai.bundle give "
            "--tracking mlflow"
        )
    if ours:
        _switch_off_telemetry()
    for handler in ours:
        handler.output_transform = partial(_scalars, trainer)
        handler.optimizer_param_names = ()  # would record the rate of every parameter group at every step
        trainer.add_event_handler(Events.STARTED, _log_record, handler, record or {})


def _scalars(trainer: Any, output: Mapping[str, Any]) -> dict[str, float]:
    """What `History` logs of a step."""
    values = {name: float(value) for name, value in step_scalars(output).items()}
    return {**values, "learning_rate": float(trainer.optimizer.param_groups[0]["lr"])}


def _log_record(trainer: Engine, handler: MLFlowHandler, record: Mapping[str, Any]) -> None:
    """Settings and versions as parameters; those of a resumed run stay as they were."""
    flat = {f"settings.{k}": v for k, v in record.get("settings", {}).items()}
    flat |= {f"packages.{k}": v for k, v in record.get("packages", {}).items()}
    flat |= {k: record[k] for k in ("bundle", "data_fingerprint", "git") if record.get(k) is not None}
    params = {key: str(value)[:_LONGEST] for key, value in flat.items()}
    handler._delete_exist_param_in_dict(params)
    handler._log_params(params)


def _is_later_rank() -> bool:
    return os.environ.get("RANK", "0") != "0"  # there MONAI leaves its handler out


def _switch_off_telemetry() -> None:
    """MLflow sends telemetry by default, which a hospital's archive must not."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        telemetry: Any = importlib.import_module("mlflow.telemetry")
    except ImportError:  # older releases have none
        return
    telemetry.set_telemetry_client()
