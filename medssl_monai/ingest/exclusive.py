"""One run at a time writes into a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medssl_monai.errors import BusyStoreError
from medssl_monai.store.disk import writing

__all__ = ["LOCK_NAME", "exclusive"]

LOCK_NAME = ".lock"


@contextmanager
def exclusive(store: Path) -> Iterator[None]:
    """Holds the store's lock, a file in its folder, which is made; at the end the file is gone, and a folder made here
    that nobody wrote into.

    The system gives the lock back when a process ends, however it ends: what a killed run leaves is a file that locks
    nothing. Network file systems that know no locks do without; so do systems other than POSIX.

    Raises:
        BusyStoreError: another process holds it.
        InputError: the folder cannot be made, or not be written into.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    file, is_new = store / LOCK_NAME, not store.exists()
    while True:
        with writing(store):
            store.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # a run that wrote nothing took its folder away
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise BusyStoreError(
                f"store {store}: another run writes into it at this moment; wait for its end, or name another folder"
            ) from error
        except OSError:
            break  # no locks on this file system
        if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
            break
        os.close(descriptor)  # a run that ended took the file away before this one had it
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # it is not empty
                store.rmdir()
