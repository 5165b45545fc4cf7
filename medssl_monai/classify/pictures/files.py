"""Files of pictures: which are taken, what their headers say, and how they are read.

Shapes: grey (H, W) or colour (H, W, 3), uint8.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from medssl_monai.errors import LabelError
from medssl_monai.ingest.sources.paths import PICTURE_SUFFIXES
from medssl_monai.ingest.volumes.pictures import picture_count

PICTURES = frozenset(PICTURE_SUFFIXES)
KINDS = "PNG, JPEG, BMP, TIFF"

Bytes = npt.NDArray[np.uint8]


class PictureHeader(NamedTuple):
    """What a file says before it is decoded: Pillow's words for format and colour mode, and the size in pixels."""

    format: str
    mode: str
    width: int
    height: int


class ImageFiles(Sequence[Bytes]):
    """Pictures on disk, read when asked for: grey (H, W) or colour (H, W, 3), uint8; transparency is dropped.

    Args:
        paths: of the files.
        root: folder from which `name` counts; None takes the file's own name.
    """

    def __init__(self, paths: Sequence[Path], root: Path | None = None) -> None:
        self.paths, self.root = list(paths), root

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path from the root."""
        path = self.paths[index]
        inside = self.root is not None and path.is_relative_to(self.root)
        return path.relative_to(self.root or ".").as_posix() if inside else path.name

    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Path, bytes and time of change of each file: equal as long as the pictures are the same."""
        return tuple(map(self.state_of, range(len(self))))

    def state_of(self, index: int) -> tuple[str, int, int]:
        """`state` of one picture.

        Raises:
            LabelError: the file is gone.
        """
        try:
            fact = self.paths[index].stat()
        except OSError as error:
            raise LabelError(f"picture {index}: cannot be read ({type(error).__name__}); fetch it again") from error
        return str(self.paths[index]), fact.st_size, fact.st_mtime_ns

    def __getitem__(self, index: Any) -> Any:
        """The picture at ``index``.

        Raises:
            LabelError: the file is no single picture of 8 bits; the message gives its number, not its name.
        """
        try:
            with Image.open(self.paths[index]) as picture:
                refused = _refusal(picture)
                if refused:
                    raise LabelError(f"picture {index}: {refused}")
                grey = picture.mode in {"L", "LA", "1"}
                return np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.uint8)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise LabelError(f"picture {index}: cannot be read ({type(error).__name__}); fetch it again") from error

    def headers(self) -> list[PictureHeader]:
        """What each file says of itself.

        Raises:
            LabelError: some are no single pictures of 8 bits; the message names up to three, and says how many.
        """
        found, refused = [], {}
        for index, path in enumerate(self.paths):
            try:
                with Image.open(path) as picture:
                    reason = _refusal(picture)
                    found.append(PictureHeader(str(picture.format), picture.mode, *picture.size))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                reason = f"cannot be read ({type(error).__name__}); fetch it again, or take it out"
            if reason:
                refused[self.name(index)] = reason
        if refused:
            examples = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
            raise LabelError(f"{len(refused)} of {len(self.paths)} pictures cannot be used. {examples}")
        return found


def _refusal(picture: Image.Image) -> str:
    """Why a picture is not taken, or nothing.

    16 bits have no scale that all pictures share: stretching each by itself would change what its values mean.
    """
    # Pillow reads colours of 16 bits as 8 without a word; only its description of the stored data tells.
    deep = picture.format in ("PNG", "TIFF") and ";16" in str(getattr(picture, "tile", ""))
    if deep or picture.mode.startswith(("I", "F")):
        mode = "16 bits" if deep else f"mode {picture.mode}"
        return (
            f"must have 8 bits a channel, found {mode}; window it to 8 bits, or give DICOM or NIfTI with a label table"
        )
    count = picture_count(picture)
    return f"must be one picture, found {count} in one file; save each as a file of its own" if count > 1 else ""
