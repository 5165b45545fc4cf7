"""Pictures (PNG, JPEG, BMP, TIFF) to be classified by a run that was fine-tuned on pictures.

A picture is ``picture-000012``, by the order of the paths; `PictureInput.names` has the path.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from medssl_monai.classify.pictures.files import KINDS, PICTURES, ImageFiles
from medssl_monai.errors import InputError, LabelError, NoImagesError
from medssl_monai.ingest.scan import find_files
from medssl_monai.ingest.sources.archives import unpacked
from medssl_monai.store.pseudonyms import load_key, source_id


class PictureInput(Dataset[dict[str, Any]]):
    """Items as of `ImageDataset` without labels: ``image`` uint8 (3, H, W), ``series_id``, ``slice`` 0, no patient.

    Args:
        sources: files, folders and archives.
        transform: the run's evaluation view.

    Attributes:
        left_out: files that are no pictures of 8 bits, and why.
        names: path of each picture by its ``series_id``, and of each other file by its pseudonym.

    Raises:
        InputError: a source does not exist.
        NoImagesError: there is no picture.
    """

    def __init__(self, sources: Sequence[Path], transform: Callable[[dict[str, Any]], Any] | None = None) -> None:
        for source in sources:
            if not source.exists():
                raise InputError(f"{source} does not exist; give pictures, or a folder of them")
        self.transform = transform
        self.left_out: list[dict[str, Any]] = []
        self.names: dict[str, str] = {}
        key = load_key()
        found: list[tuple[Path, Any]] = []
        with (
            tempfile.TemporaryDirectory(prefix="medssl-pictures-") as folder,
            unpacked(find_files(sources), Path(folder) / "archives") as (files, refused),
        ):
            for one in refused:
                self._leave_out(key, one.path, one.reason.value, one.detail)
            for file in files:
                detail = self._refusal(file.path, file.content)
                if detail:
                    self._leave_out(key, file.path, "NOT_A_PICTURE", detail)
                    continue
                self.names[f"picture-{len(found):06d}"] = str(file.path)
                pixels = ImageFiles([file.content])[0] if file.content != file.path else None
                found.append((file.content, pixels))
        if not found:
            kinds = "; ".join(sorted({str(one["detail"]) for one in self.left_out})[:2])
            raise NoImagesError(
                f"{', '.join(map(str, sources[:3]))}: this run was fine-tuned on pictures of 8 bits, and there is none "
                f"among {len(self.left_out)} files ({kinds}); give PNG or JPEG, windowed as its training pictures were"
            )
        self._files = ImageFiles([path for path, _ in found])
        self._kept = [pixels for _, pixels in found]  # of archives; their members are gone by now

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        item = {
            "image": self._tensor(index),
            "patient": "",
            "series_id": f"picture-{index:06d}",
            "slice": 0,
            "index": index,
            "epoch": 0,
        }
        return item if self.transform is None else self.transform(item)

    def picture(self, index: int) -> Any:
        """(3, H, W) in [0, 1], as it is shown."""
        return self._tensor(index).numpy().astype(np.float64) / 255

    def _tensor(self, index: int) -> torch.Tensor:
        kept = self._kept[index]
        pixels = np.atleast_3d(self._files[index] if kept is None else kept)[:, :, :3]
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1))).expand(3, -1, -1)

    def _refusal(self, path: Path, content: Path) -> str:
        if path.suffix.lower() not in PICTURES:
            return f"is no picture ({KINDS})"
        try:
            ImageFiles([content])[0]
        except LabelError:
            return "is no picture of 8 bits that can be read"
        return ""

    def _leave_out(self, key: bytes, path: Path, reason: str, detail: str) -> None:
        source = source_id(key, path)
        self.names[source] = str(path)
        entry = {"kind": "file", "series_id": "", "source_id": source, "modality": "", "files": 1}
        self.left_out.append({**entry, "reason": reason, "detail": detail})
