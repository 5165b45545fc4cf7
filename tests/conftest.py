"""What many tests need: a small phantom study tree, its store, a user's folders of their own, a browser."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.ingest import SliceStore, build_store, load_key
from medssl_monai.samples.phantom import write_phantom


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's key or caches."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.delenv("MEDSSL_KEY", raising=False)
        yield home


@pytest.fixture(autouse=True, scope="session")
def ctrl_c() -> None:
    """SIGINT interrupts the tests, even when a shell started them in the background and so had it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def phantom_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Label table of five phantom patients (three train, two test), six slices of 64² pixels each, as DICOM."""
    return write_phantom(tmp_path_factory.mktemp("phantom"), patients=5, seed=0, size=64, slices=6)


@pytest.fixture(scope="session")
def phantom_store(phantom_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """The phantom's slices."""
    out = tmp_path_factory.mktemp("stores") / "phantom"
    build_store([phantom_labels.parent], out, key=load_key(), modality="CT", progress=False)
    return SliceStore(out)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium (CHROMIUM names it, else it is looked for on the PATH), driven by the package playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (extra dev)")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
