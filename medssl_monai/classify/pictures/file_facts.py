"""What the files of pictures tell without anatomy: the baseline that shows what a label leaks.

Data sets collected from papers and web pages often have another source for each class, and with it another size, file
format and range of grey values. A classifier of these facts alone is no diagnosis, and what a network adds to it is.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.leaks import grey

BINS = 16
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")

Floats = npt.NDArray[np.floating[Any]]


def file_facts(data: ImageData) -> Floats:
    """Facts (N, F) of all N pictures of a data set.

    Columns: width, height, width / height, bytes, bytes / pixel, a column for each of `FORMATS` and `MODES` (0 or 1),
    share of coloured pixels, and the share of pixels in each of 16 equal ranges of grey. Of pictures in an array only
    those that its pixels give.
    """
    headers = data.images.headers() if isinstance(data.images, ImageFiles) else None
    sizes = [path.stat().st_size for path in data.images.paths] if isinstance(data.images, ImageFiles) else None
    rows = []
    for place, picture in enumerate(data.images):
        height, width = picture.shape[:2]
        seen = grey(picture)
        coloured = picture.ndim == 3 and (picture[..., :3] != picture[..., :1]).any(axis=2).mean()
        histogram = np.histogram(seen, bins=BINS, range=(0, 256))[0] / seen.size
        facts = [width, height, width / height]
        if headers and sizes:
            kind = headers[place]
            facts += [sizes[place], sizes[place] / seen.size]
            facts += [kind.format == one for one in FORMATS] + [kind.mode == one for one in MODES]
        rows.append([*facts, float(coloured), *histogram])
    return np.asarray(rows, dtype=np.float64)


def facts_forest(train: Floats, labels: npt.ArrayLike, test: Floats, classes: int, *, seed: int = 0) -> Floats:
    """Probabilities (N, C) of a random forest on file facts.

    Args:
        train: (M, F) of the pictures that are learned from.
        labels: (M,) class indices.
        test: (N, F).
        classes: C.
        seed: of the forest.
    """
    model: Any = RandomForestClassifier(n_estimators=500, random_state=seed, n_jobs=1)
    model.fit(train, labels)
    found = np.zeros((len(test), classes))
    found[:, model.classes_] = model.predict_proba(test)
    return found
