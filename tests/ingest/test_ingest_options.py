"""Options of ingestion: a modality is one of DICOM's words, and what a message advises can be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medssl_monai.cli import ingest as ingest_verb
from medssl_monai.cli.recipes import load_recipe
from medssl_monai.errors import ConfigError, InputError, NoImagesError
from medssl_monai.ingest import SliceStore
from medssl_monai.ingest.open_store import open_store
from medssl_monai.ingest.sources.dicomweb import parse_query
from tests.ingest.conftest import Ingest, only
from tests.ingest.dicom_fixtures import KEY, anatomy, phantom, write_series


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """A CT as NIfTI, 1024 too high: its values are not HU."""
    values = (anatomy(1).astype(np.int32) + 1024).transpose(2, 1, 0).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 2.5, 1.0])), tmp_path / "shifted.nii.gz")  # type: ignore[no-untyped-call]
    return tmp_path / "shifted.nii.gz"


@pytest.fixture
def medssl(tmp_path: Path) -> Callable[..., None]:
    """`medssl ingest` into `store`."""
    app = typer.Typer()
    app.command()(ingest_verb.run)
    (tmp_path / "key").write_bytes(KEY)
    always = ["--out", str(tmp_path / "store"), "--key", str(tmp_path / "key"), "--no-report"]

    def run(*arguments: object) -> None:
        CliRunner().invoke(app, [*map(str, arguments), *always], standalone_mode=False, catch_exceptions=False)

    return run


@pytest.mark.parametrize("word", ["CT", "ct", " Ct "])
def test_a_modality_however_it_is_written(tmp_path: Path, run: Ingest, shifted: Path, word: str) -> None:
    write_series(tmp_path / "in", phantom())
    store, summary = run(modality=word)
    assert only(summary).modality == store.select()[0]["modality"] == "CT"
    with pytest.raises(NoImagesError, match="NOT_HOUNSFIELD"):
        run(shifted, out="volume", modality=word)
    assert parse_query([], word) == parse_query([f"Modality={word}"]) == {"Modality": "CT"}
    (tmp_path / "own.yaml").write_text(f"modality: {word!r}")
    assert load_recipe(str(tmp_path / "own.yaml")) == {"modality": "CT"}
    one, other = (open_store(tmp_path / "in", modality=m, cache_dir=tmp_path / "cache", key=KEY) for m in (word, "CT"))
    assert one.path == other.path


@pytest.mark.parametrize("word", ["FOO", "", "CT,MR"])
def test_words_that_are_no_modality(tmp_path: Path, run: Ingest, shifted: Path, word: str) -> None:
    """A volume would be stored under it, its values unseen."""
    why = r"is none of DICOM's words for images \(.*CT.*\); correct it"
    with pytest.raises(InputError, match=why):
        run(shifted, modality=word)
    assert not (tmp_path / "store").exists()
    with pytest.raises(InputError, match=why):
        open_store(shifted, modality=word, cache_dir=tmp_path / "cache", key=KEY)
    with pytest.raises(InputError, match=why):
        parse_query([], word)
    (tmp_path / "own.yaml").write_text(f"modality: {word!r}")
    with pytest.raises(ConfigError, match=f"own.yaml: modality .*{why}"):
        load_recipe(str(tmp_path / "own.yaml"))


def test_queries_for_modalities() -> None:
    assert parse_query(["Modality=C*"]) == {"Modality": "C*"}
    with pytest.raises(InputError, match="none of DICOM's words"):
        parse_query(["Modality=FOO"])


@pytest.mark.parametrize("by", ["option", "recipe"])
def test_what_is_declared_to_be_hounsfield(tmp_path: Path, shifted: Path, medssl: Callable[..., None], by: str) -> None:
    """The refusals of a volume and of DICOM name the option, which takes both."""
    write_series(tmp_path / "tags", phantom(), intercept=None)
    for source in (shifted, tmp_path / "tags"):
        with pytest.raises(NoImagesError, match="`--assume-hu`"):
            medssl(source)
    (tmp_path / "own.yaml").write_text("assume_hu: true")
    medssl(shifted, tmp_path / "tags", *(["--assume-hu"] if by == "option" else ["--config", tmp_path / "own.yaml"]))
    assert len(SliceStore(tmp_path / "store").series_ids) == 2


def test_an_empty_source_is_not_the_current_folder(
    tmp_path: Path, medssl: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "in", phantom())
    monkeypatch.chdir(tmp_path / "in")
    for read in (lambda: medssl(""), lambda: open_store("", cache_dir=tmp_path / "cache", key=KEY)):
        with pytest.raises(InputError, match="source '': is empty, perhaps a variable that is not set"):
            read()


def test_a_query_without_a_pacs(tmp_path: Path, medssl: Callable[..., None]) -> None:
    write_series(tmp_path / "in", phantom())
    with pytest.raises(InputError, match="--query: asks a PACS, and no source is one"):
        medssl(tmp_path / "in", "--query", "StudyDate=2020")
