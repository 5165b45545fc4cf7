"""Does a passport find what weights have seen, also where the images were changed, and does it suspect others?

    medssl sample-data --out SAMPLES
    python benchmarks/passport.py --samples SAMPLES --pictures FOLDER --patient-from REGEX --out DIR

FOLDER holds CT slices as 8-bit pictures of many patients, such as LUNA16's; without it the samples alone are used. Half
of the patients, drawn by the seed, are seen: their slices make the passport. Every slice of theirs, and of the other
half, is then changed in one way and compared with the passport: the share of the seen that are found, and of the others
that are taken for seen. Both hold for any share of overlaps in a test set. Of the samples, the training CTs are seen
and the test CTs are others; their second passport has 24 slices of each CT.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.labels.audit_sets import AuditSet, slice_set
from medssl_monai.labels.near_duplicates import Pixels as PixelSource
from medssl_monai.labels.passport import DISTANCE, Passport, make_passport

PUBLIC_KEY = b"medssl-monai benchmark: public images only"
Pixels = NDArray[Any]


def rewindowed(low: float, high: float) -> Callable[[Pixels], Pixels]:
    """To 8 bits."""
    return lambda pixels: (np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1) * 255).round()


def resized(side: float) -> Callable[[Pixels], Pixels]:
    """By a factor."""
    way = cv2.INTER_AREA if side < 1 else cv2.INTER_CUBIC
    return lambda pixels: cv2.resize(pixels.astype(np.float32), None, fx=side, fy=side, interpolation=way)


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    """Compressed and read again."""

    def change(pixels: Pixels) -> Pixels:
        _, file = cv2.imencode(".jpg", pixels.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)

    return change


def both(*changes: Callable[[Pixels], Pixels]) -> Callable[[Pixels], Pixels]:
    """One after the other."""

    def change(pixels: Pixels) -> Pixels:
        for one in changes:
            pixels = one(pixels)
        return pixels

    return change


def rotated(pixels: Pixels) -> Pixels:
    """By a quarter."""
    return np.ascontiguousarray(np.rot90(pixels))


def cropped(share: float) -> Callable[[Pixels], Pixels]:
    """So much is lost at each side."""

    def change(pixels: Pixels) -> Pixels:
        rows, columns = (int(size * share) for size in pixels.shape)
        return np.ascontiguousarray(pixels[rows:-rows, columns:-columns])

    return change


OF_PICTURES = {
    "identical": lambda pixels: pixels,
    "re-windowed: the darker half": rewindowed(0, 128),
    "re-windowed: grey 90 to 190": rewindowed(90, 190),
    "resized to half": resized(0.5),
    "resized to 1.5": resized(1.5),
    "rotated by 90°": rotated,
    "JPEG, quality 50": jpeg(50),
    "JPEG, quality 20": jpeg(20),
    "all of these": both(rewindowed(90, 190), resized(0.5), rotated, jpeg(50)),
    "cropped by 2 % a side": cropped(0.02),
    "cropped by 5 % a side": cropped(0.05),
}
LUNG = rewindowed(-1200, 200)
OF_CT = {
    "identical": OF_PICTURES["identical"],
    "8 bits, whole range": rewindowed(-1024, 1500),
    "8 bits, lung": LUNG,
    "8 bits, soft tissue": rewindowed(-135, 215),
    "8 bits, bone": rewindowed(-450, 1050),
    "8 bits, lung, resized to half": both(LUNG, resized(0.5)),
    "8 bits, lung, rotated by 90°": both(LUNG, rotated),
    "8 bits, lung, JPEG, quality 50": both(LUNG, jpeg(50)),
    "8 bits, lung, all of these": both(LUNG, resized(0.5), rotated, jpeg(50)),
}


class Changed:
    """A store of which every slice is changed when it is read."""

    def __init__(self, store: PixelSource, change: Callable[[Pixels], Pixels]) -> None:
        self.store, self.change = store, change

    def read(self, series_id: str, slice_: int, /) -> Pixels:
        """The changed slice."""
        return self.change(self.store.read(series_id, slice_))


def called_seen(
    passport: Passport, one: AuditSet, change: Callable[[Pixels], Pixels], name: str
) -> tuple[float, float]:
    """The shares of a set's slices and of its series."""
    kept = name == "identical"
    items = [item._replace(modality=item.modality if kept else "OT") for item in one.items if item.comparable]
    changed = AuditSet(one.name, one.kind, one.origin, Changed(one.pixels, change), items, one.patients, one.key)
    found = passport.seen(changed)
    series = [len({each.series_id for each in side}) for side in (found, items)]
    return len(found) / len(items), series[0] / series[1]


def table(passport: Passport, seen: AuditSet, others: AuditSet, changes: Mapping[str, Any]) -> Iterable[str]:
    """Lines of Markdown."""
    counts = [sum(item.comparable for item in one.items) for one in (seen, others)]
    yield f"passport: {passport.slices} of {passport.slices_used} slices, {passport.series} series"
    yield (f"| change | found, of {counts[0]} seen | series found | false alarms, of {counts[1]} others |")
    yield "|---|---|---|---|"
    for name, change in changes.items():
        (found, series), (wrong, _) = (called_seen(passport, one, change, name) for one in (seen, others))
        yield f"| {name} | {found:.1%} | {series:.0%} | {wrong:.1%} |"


def halves(store: SliceStore, seed: int) -> tuple[set[str], set[str]]:
    """Patients."""
    patients = sorted(store.index.column("patient").unique().to_pylist())
    random.Random(seed).shuffle(patients)
    return set(patients[::2]), set(patients[1::2])


def rows_of(store: SliceStore, patients: set[str]) -> list[Mapping[str, Any]]:
    """Slices."""
    return [row for row in store.select() if row["patient"] in patients]


def main() -> None:
    """Print a table for the pictures and one for the samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, required=True, help="what `medssl sample-data --out` made")
    parser.add_argument("--pictures", type=Path, help="8-bit pictures of CT")
    parser.add_argument("--patient-from", help="regular expression of the patient in a picture's name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"called seen: at most {DISTANCE} of 256 bits differ")
    if options.pictures:
        home = options.out / "pictures"
        build_store([options.pictures], home, key=PUBLIC_KEY, patients=NamedPatients(options.patient_from))
        store = SliceStore(home)
        seen, others = halves(store, options.seed)
        passport = make_passport(store, [["patient", "in", sorted(seen)]])
        sides = [
            slice_set(name, "", name, store, rows_of(store, part))
            for name, part in (("seen", seen), ("others", others))
        ]
        print("\n".join(table(passport, *sides, OF_PICTURES)))
    sides = []
    for part in ("train", "test"):
        build_store([options.samples / part], options.out / part, key=PUBLIC_KEY)
        store = SliceStore(options.out / part)
        sides.append(slice_set(part, "", part, store, store.select()))
    for slices in (None, 24):
        passport = make_passport(SliceStore(options.out / "train"), per_series=slices)
        print("\n".join(table(passport, *sides, OF_CT)))


if __name__ == "__main__":
    main()
