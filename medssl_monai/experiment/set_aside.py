"""Where results go that a study can no longer use: trainings take days, so none is deleted."""

import itertools
import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def set_aside(folder: Path, out: Path, why: str) -> Path:
    """Move a folder of a study to ``OUT/set_aside``, and say so in the log.

    Args:
        folder: inside ``out``.
        out: the study's folder.
        why: rest of the sentence that begins with the folder's name.

    Returns:
        Where it is now: its own path below ``set_aside`` with the first free number, as in ``set_aside/cells/NAME.1``.
    """
    name = folder.relative_to(out).as_posix()
    places = (out / "set_aside" / f"{name}.{number}" for number in itertools.count(1))
    place = next(path for path in places if not path.exists())
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    logger.warning("%s %s; it is kept in %s", name, why, place.relative_to(out).as_posix())
    return place
