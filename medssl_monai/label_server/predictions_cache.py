"""The outputs of a network for each study, kept until the network changes.

Files hold probabilities and features under the pseudonyms of series, in one folder for each network. Folders of earlier
networks are deleted at the first use of a newer one.
"""

import logging
import shutil
from pathlib import Path

import numpy as np

from medssl_monai.atomic import write_atomically
from medssl_monai.label_server.networks import Look, ServedNetwork
from medssl_monai.label_server.studies import Studies
from medssl_monai.label_server.workspace import Workspace

logger = logging.getLogger(__name__)


class PredictionsCache:
    """Outputs of a network for the studies of a server.

    Args:
        workspace: has the folder ``predictions``.
        studies: of the server.
        network: computes the outputs.
    """

    def __init__(self, workspace: Workspace, studies: Studies, network: ServedNetwork) -> None:
        self.folder, self.studies, self.network = workspace.predictions, studies, network

    def known(self, image_id: str) -> Look | None:
        """Outputs from the cache, or None."""
        file = self._file(image_id)
        if not file.is_file():
            return None
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
                probabilities = content["probabilities"]
                return Look(
                    slices=tuple(int(number) for number in content["slices"]),
                    probabilities=probabilities if probabilities.size else None,
                    features=content["features"].astype(np.float32),
                    task=self.network.view.task,
                )
        except Exception as error:  # whatever numpy, zipfile and zlib meet in a damaged file
            logger.warning("%s: a kept prediction is damaged (%s); it is made again", file.name, type(error).__name__)
            return None

    def look(self, image_id: str) -> Look:
        """Outputs for all usable slices of an image, computed once.

        Raises:
            UnknownImageError, NoImagesError, CheckpointError: as the studies and the network do.
        """
        found = self.known(image_id)
        rows = self.studies.rows(image_id)
        if found is not None and found.slices == tuple(row["slice"] for row in rows):
            return found
        found = self.network.look(self.studies.store, rows)
        arrays = {
            "slices": np.asarray(found.slices),
            "features": found.features.astype(np.float16),
            "probabilities": np.zeros(0, np.float32) if found.probabilities is None else found.probabilities,
        }
        file = self._file(image_id)
        self._make_room(file.parent)
        write_atomically(file, lambda draft: np.savez(draft, allow_pickle=False, **arrays))
        return found

    def _file(self, image_id: str) -> Path:
        return self.folder / self.network.fingerprint[:16] / f"{self.studies.record_name(image_id)}.npz"

    def _make_room(self, folder: Path) -> None:
        if not folder.is_dir():
            for old in self.folder.iterdir():
                shutil.rmtree(old, ignore_errors=True)
            folder.mkdir(mode=0o700, exist_ok=True)
