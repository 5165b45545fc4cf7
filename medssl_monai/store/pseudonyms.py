"""Pseudonyms: keyed hashes that stand for patients, series and paths, and the key that makes them.

HMAC-SHA256 (RFC 2104) cut to 80 bits and written in base32. Without the key a pseudonym says nothing, also where the
identifiers are few enough to be guessed; with the key the same identifier always gives the same pseudonym, so that
stores made apart can be joined. The key itself never enters a store.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from pathlib import Path
from typing import Literal

from medssl_monai.errors import InputError

KEY_VARIABLE = "MEDSSL_KEY"
MINIMUM_KEY_BYTES = 16

Kind = Literal["patient", "series", "source", "instance", "key"]
_PREFIX: dict[str, str] = {"patient": "p", "series": "s", "source": "f", "instance": "i", "key": "k"}


def pseudonym(key: bytes, kind: Kind, identifier: str) -> str:
    """17 characters `[a-z2-7]`: a letter for the kind, then 80 bits of HMAC-SHA256(key, kind and identifier)."""
    digest = hmac.digest(key, f"{kind}\0{identifier}".encode("utf-8", "surrogateescape"), "sha256")
    return _PREFIX[kind] + base64.b32encode(digest[:10]).decode("ascii").lower()


def source_id(key: bytes, path: Path) -> str:
    """The pseudonym of a file or folder: of its absolute path with links resolved."""
    return pseudonym(key, "source", str(path.resolve()))


def shifted_day(key: bytes, patient: str, day: int) -> int:
    """A day moved by a number of days, up to three million years, that the key gives each patient.

    Days of one patient keep their distances, which is all that they then tell (PS3.15 E.3.6, longitudinal temporal
    information with modified dates).

    Args:
        key: of the pseudonyms.
        patient: what stands for the patient, as given to `pseudonym`.
        day: number of the day.

    Returns:
        Below 2^31.
    """
    digest = hmac.digest(key, f"days\0{patient}".encode("utf-8", "surrogateescape"), "sha256")
    return day + int.from_bytes(digest[:4], "big") % 2**30


def key_check(key: bytes) -> str:
    """Tells whether two keys are the same without telling the key."""
    return pseudonym(key, "key", "check")


def default_key_path() -> Path:
    """`$XDG_CONFIG_HOME/medssl-monai/key`, or `~/.config/medssl-monai/key`."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(configured) if configured else Path.home() / ".config"
    return folder / "medssl-monai" / "key"


def load_key(path: Path | None = None) -> bytes:
    """The key from a file, else from `MEDSSL_KEY`, else the user's own, made on first use with mode 0600.

    Raises:
        InputError: the file cannot be read, or the key has fewer than 16 bytes.
    """
    if path is not None:
        return _read_key(path)
    from_environment = os.environ.get(KEY_VARIABLE, "")
    if from_environment:
        return checked_key(from_environment.encode("utf-8", "surrogateescape"), f"the variable {KEY_VARIABLE}")
    own = default_key_path()
    if not own.exists():
        _make_key(own)
    return _read_key(own)


def _read_key(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"key file {path}: cannot be read ({error.strerror}); name a readable file, or leave it out"
        ) from error
    return checked_key(content.strip(), f"key file {path}")


def checked_key(key: bytes, name: str = "key") -> bytes:
    """A key as it is.

    Args:
        key: to check.
        name: of it, for the message.

    Raises:
        InputError: it is no bytes, or has fewer than 16 of them.
    """
    if not isinstance(key, bytes):
        raise InputError(f"{name}: must be bytes, found {type(key).__name__}; read a key file with `load_key(Path(…))`")
    if len(key) < MINIMUM_KEY_BYTES:
        raise InputError(
            f"{name}: a key needs at least {MINIMUM_KEY_BYTES} bytes, found {len(key)}; "
            "make one with `openssl rand -hex 32`"
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        # A hard link appears whole or not at all, and never replaces the key that another process made meanwhile.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
