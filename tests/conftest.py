"""What many tests need: a small phantom study tree, its store, and a user's folders of their own."""

from collections.abc import Iterator
from pathlib import Path

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
