"""The folder that a label server works in: what lies where, who may read it, how large it may grow."""

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

# Folders that hold nothing worth keeping once the server is down: uploads, and images of sessions.
PASSING = ("tmp", "sessions")
KEPT = ("images", "records", "labels", "runs", "models", "predictions", "app")


@dataclass(frozen=True)
class ServerSettings:
    """What the server was told, for its own process and for those of its tasks.

    Attributes:
        studies: a folder (absolute) or the address of a DICOMweb service.
        modality: the one that is served, such as CT or DX.
        query: QIDO-RS attributes that a PACS's series must have.
        verify_tls: whether the PACS's certificate is verified.
        device: cpu or cuda.
        image_cache_gib: how much the image files made for clients may take.
        key: file of the pseudonym key; None is the user's own.
        encoder: pre-trained weights for the first fine-tuning; None has none.
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
        """The slices that a network looks at, as a condition on the store's index."""
        wanted: list[list[Any]] = [["modality", "==", self.modality]]
        return [*wanted, ["plane", "==", "axial"]] if self.modality == "CT" else wanted


@dataclass(frozen=True)
class Workspace:
    """Paths inside the folder. Everything in it is for its owner alone (mode 0700)."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        if name in (*PASSING, *KEPT, "store"):
            return self.root / name
        raise AttributeError(name)

    @property
    def current_model(self) -> Path:
        """Link to the run or bundle that is served."""
        return self.root / "models" / "current"

    @property
    def pretrained(self) -> Path:
        """Link to the last pre-training run."""
        return self.root / "models" / "pretrained"

    def prepare(self) -> None:
        """Make the folders, empty what only lives as long as a server, and lock others out."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.chmod(0o700)
        for name in PASSING:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in (*PASSING, *KEPT):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)

    def write_settings(self, settings: ServerSettings) -> None:
        """For `settings`."""
        write_json(self.root / "server.json", asdict(settings))

    def settings(self) -> ServerSettings:
        """As written by `write_settings`.

        Raises:
            ConfigError: there are none: no server was started here.
        """
        try:
            return ServerSettings(**json.loads((self.root / "server.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.root}: server.json is missing or unreadable; start the server with `medssl label-serve`"
            ) from error

    def point(self, link: Path, target: Path) -> None:
        """Make a link lead to ``target``, in one step."""
        draft = link.with_name(f".{link.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(target.resolve())
        draft.replace(link)


def default_root(studies: str) -> Path:
    """``$XDG_DATA_HOME/medssl-monai/label/HASH`` or ``~/.local/share/…``: labels are worth more than a cache."""
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
    """Delete the files longest unused until the folder's fit into ``limit_bytes``; returns how many went.

    Args:
        folder: flat folder of files.
        limit_bytes: what may stay.
        keep: a file that stays in any case: the one just asked for.
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
