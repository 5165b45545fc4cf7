"""Connects to an existing Dask cluster."""

from typing import Any

from medssl_monai.errors import InputError

SECONDS_TO_CONNECT = 20


def cluster_client(scheduler: str) -> Any:
    """A ``distributed.Client`` of the scheduler at this address (``tcp://HOST:PORT``), to be closed by the caller.

    Raises:
        InputError: the package distributed is missing, or no scheduler answers at the address.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "scheduler: needs the package distributed, which is not installed; pip install 'medssl-monai[dask]'"
        ) from error
    try:
        connect: Any = Client  # has no types
        return connect(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler {scheduler}: no Dask scheduler answers at this address ({type(error).__name__}); "
            "start one with `dask scheduler`, or correct the address"
        ) from error
