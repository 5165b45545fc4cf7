"""Archives as they are found: LIDC-IDRI's tree, ingested by its recipe from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medssl_monai.cli import ingest as ingest_verb
from medssl_monai.cli.recipes import load_recipe
from medssl_monai.errors import ConfigError
from medssl_monai.ingest import SliceStore
from medssl_monai.ingest.lookup import find_series
from tests.ingest.dicom_fixtures import KEY, dataset, phantom, uid, write, write_series
from tests.ingest.matrix import stored

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"


@pytest.fixture
def lidc(tmp_path: Path) -> Path:
    """Two patients: CT with the readers' XML; one has a study of two X-rays beside it, one a series of one image."""
    root = tmp_path / "LIDC-IDRI"
    for number in (1, 2):
        name = f"LIDC-IDRI-{number:04d}"
        series = root / name / f"01-01-2000-{number}0178" / f"300056{number}.000000-NA-03192"
        names = [f"1-{i:03d}.dcm" for i in range(1, 7)]
        tags = {"PatientID": name, "StudyInstanceUID": uid(name)}
        write_series(series, phantom(seed=number), series=name, names=names, **tags)  # type: ignore[arg-type]
        (series / "069.xml").write_text("<LidcReadMessage><SeriesInstanceUid/></LidcReadMessage>")
    study = root / "LIDC-IDRI-0001" / "01-01-2000-98329" / "3000923.000000-NA-62357"
    for i, (sop_class, modality) in enumerate(((CR, "CR"), (DX, "DX"))):
        image = dataset(stored(phantom()[0]), series="x", name=i, SOPClassUID=sop_class, Modality=modality)
        write(image, study / f"1-{i + 1}.dcm")
    (root / "LICENSE").write_text("CC BY 3.0")
    return root


def run(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(ingest_verb.run)
    result = CliRunner().invoke(app, [str(one) for one in arguments], standalone_mode=False)
    assert result.exception is None, result.exception
    return result.stdout


def test_lidc(lidc: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    options = ("--out", tmp_path / "store", "--key", tmp_path / "key", "--config", "lidc", "--workers", 1)
    found = {(one["outcome"], one["reason"]): one["files"] for one in json.loads(run(lidc, *options, "--json"))}
    assert found == {("accepted", ""): 12, ("rejected", "OTHER_MODALITY"): 2, ("rejected", "NOT_AN_IMAGE_FILE"): 3}
    store = SliceStore(tmp_path / "store")
    assert len({row["patient"] for row in store.select()}) == 2
    for number in (1, 2):
        series = find_series(store, uid(f"LIDC-IDRI-{number:04d}"), KEY)
        assert np.array_equal(store.read_series(series), phantom(seed=number))
        assert find_series(store, lidc / f"LIDC-IDRI-{number:04d}" / f"01-01-2000-{number}0178", KEY) == series
    # What the command line says wins over the recipe.
    run(
        lidc,
        "--out",
        tmp_path / "cr",
        "--key",
        tmp_path / "key",
        "--config",
        "lidc",
        "--modality",
        "CR",
        "--workers",
        1,
    )
    assert {row["modality"] for row in SliceStore(tmp_path / "cr").select()} == {"CR"}


def test_recipes(tmp_path: Path) -> None:
    assert load_recipe("lidc")["modality"] == "CT"
    (tmp_path / "own.yaml").write_text("report: false")
    assert load_recipe(str(tmp_path / "own.yaml")) == {"report": False}
    for content, why in (("modality: 3", "'modality': 3 is no option"), ("[1]", "found list"), ("a: [", "as YAML")):
        (tmp_path / "own.yaml").write_text(content)
        with pytest.raises(ConfigError, match=why):
            load_recipe(str(tmp_path / "own.yaml"))
    with pytest.raises(ConfigError, match="one of lidc"):
        load_recipe("nothing")
