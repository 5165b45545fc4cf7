"""The folder that a label server works in: its layout, its permissions, its limits."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_json
from medssl_monai.errors import ConfigError

# Folders that are emptied at each start: uploads, and images of sessions.
PASSING = ("tmp", "sessions")
KEPT = ("images", "records", "labels", "runs", "models", "predictions", "app")


@dataclass(frozen=True)
class ServerSettings:
    """The server's settings, for its own process and those of its tasks.

    Attributes:
        studies: a folder (absolute) or the address of a DICOMweb service.
        modality: of the served series, such as CT or DX.
        query: QIDO-RS attributes that series of a PACS must have.
        verify_tls: whether the PACS's certificate is verified.
        device: cpu or cuda.
        image_cache_gib: limit of the image files made for clients.
        key: file of the pseudonym key; None uses the user's own.
        encoder: pre-trained weights for the first fine-tuning, or None.
    """

    studies: str
    modality: str = "CT"
    query: dict[str, str] = field(default_factory=dict)
    verify_tls: bool = True
    device: str = "cpu"
    image_cache_gib: float = 10.0
    key: str | None = None
    encoder: str | None = None

    @property
    def filters(self) -> list[list[Any]]:
        """The slices that a network reads, as a condition on the store's index."""
        wanted: list[list[Any]] = [["modality", "==", self.modality]]
        return [*wanted, ["plane", "==", "axial"]] if self.modality == "CT" else wanted


@dataclass(frozen=True)
class Workspace:
    """Paths inside the folder. Only its owner can read it (mode 0700)."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        if name in (*PASSING, *KEPT, "store"):
            return self.root / name
        raise AttributeError(name)

    @property
    def current_model(self) -> Path:
        """Link to the served run or bundle."""
        return self.root / "models" / "current"

    @property
    def pretrained(self) -> Path:
        """Link to the last pre-training run."""
        return self.root / "models" / "pretrained"

    def prepare(self) -> None:
        """Make the folders, empty those that do not outlive a server, and set the permissions."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        for name in PASSING:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in (*PASSING, *KEPT):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    def write_settings(self, settings: ServerSettings) -> None:
        """Write ``server.json``, which `settings` reads."""
        write_json(self.root / "server.json", asdict(settings))

    def settings(self) -> ServerSettings:
        """The settings written by `write_settings`.

        Raises:
            ConfigError: no server has been started here.
        """
        try:
            return ServerSettings(**json.loads((self.root / "server.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.root}: server.json is missing or unreadable; start the server with `medssl label-serve`"
            ) from error

    def point(self, link: Path, target: Path) -> None:
        """Let a link point to ``target``, atomically."""
        draft = link.with_name(f".{link.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(target.resolve())
        draft.replace(link)


def default_root(studies: str) -> Path:
    """``$XDG_DATA_HOME/medssl-monai/label/HASH`` or ``~/.local/share/…``: labels do not belong into a cache."""
    base = os.environ.get("XDG_DATA_HOME")
    name = hashlib.sha256(studies.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return (Path(base) if base else Path.home() / ".local" / "share") / "medssl-monai" / "label" / name


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file while the block runs; other processes and threads wait."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def limit_folder(folder: Path, limit_bytes: int, keep: Path | None = None) -> int:
    """Delete the least recently used files until the rest fits into ``limit_bytes``; returns how many were deleted.

    Args:
        folder: flat folder of files.
        limit_bytes: total size of the remaining files.
        keep: a file that is never deleted: the one just requested.
    """
    files = sorted(((p.stat().st_mtime, p.stat().st_size, p) for p in folder.iterdir() if p.is_file()), reverse=True)
    total, gone = 0, 0
    for _, size, path in files:
        total += size
        if total > limit_bytes and path != keep:
            path.unlink(missing_ok=True)
            total -= size
            gone += 1
    return gone
