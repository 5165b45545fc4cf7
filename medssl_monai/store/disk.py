"""What the disk refuses ends a run in one sentence: a verdict would blame a file that is not broken."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl_monai.errors import InputError

__all__ = ["disk_refused", "writing", "writing_among_others"]

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
