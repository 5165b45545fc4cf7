"""What the disk refuses ends a run in one sentence: a verdict would blame a file that is not broken."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medssl_monai.errors import BusyStoreError, InputError

LOCK_NAME = ".lock"


DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
"""What only writing meets."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Something is written into a folder.

    Raises:
        InputError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise disk_refused(folder, error) from error


@contextmanager
def writing_among_others(folder: Path) -> Iterator[None]:
    """Much is done of which some is writing into a folder: only what the disk alone says is taken for its refusal.

    Raises:
        InputError: instead of such an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise disk_refused(folder, error) from error


def disk_refused(folder: Path, error: OSError) -> InputError:
    """The sentence; the name of the file that was written is left out of it, since it may name a patient.

    A private folder within a store is gone by the time it is read: the store is named.
    """
    private = next((number for number, part in enumerate(folder.parts) if part.startswith(".draft-")), None)
    folder = Path(*folder.parts[:private])
    return InputError(
        f"{folder}: cannot be written ({error.strerror or type(error).__name__}); free space there or correct its "
        "permissions, then run the same command again, or name another folder"
    )


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
