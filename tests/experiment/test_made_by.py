"""Which code made a result, found by its imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from medssl_monai.experiment import cells, made_by
from medssl_monai.resources import bundle_dir

PACKAGE = Path(made_by.__file__).parents[1]


def configurations(bundle: str, *names: str) -> list[Path]:
    return [bundle_dir(bundle) / "configs" / f"{name}.yaml" for name in names]


def test_the_code_has_a_fingerprint_that_comments_and_moves_do_not_change(tmp_path: Path) -> None:
    def meaning(*modules: str) -> frozenset[str]:
        files = [tmp_path / f"{abs(hash(text))}.py" for text in modules]
        for file, text in zip(files, modules, strict=True):
            file.write_text(text)
        return frozenset[str]().union(*map(made_by._meaning, files))

    whole = meaning(
        '"""Doc."""\nfrom os import path, sep\ndef f(x):\n    """Doc."""\n    return x  # so\ndef g(): f(path)\n'
    )
    assert whole == meaning(
        "from os import path\nfrom medssl_monai.there import f\ndef g(): f(path)\n",
        "from os import sep\ndef f(x):\n\n    return x\n",
    )
    assert whole != meaning("from os import path, sep\ndef f(x): return -x\ndef g(): f(path)\n")
    assert meaning("from medssl_monai.a import f as g\n") != meaning("from medssl_monai.a import h as g\n")


def test_the_modules_of_a_training_are_those_that_it_imports() -> None:
    def names(start: str, files: list[Path]) -> set[str]:
        found = (path.relative_to(PACKAGE).with_suffix("").as_posix() for path in made_by.modules_run(start, files))
        return {name.removesuffix("/__init__") for name in found}

    cell = names(cells.__name__, configurations("ct_classification", "train", "evaluate"))
    assert {"experiment/cells", "networks/resnet", "transforms/labelled", "statistics/metrics", "store/reader"} <= cell
    spark = names("medssl_monai.runs.pretrain", configurations("ct_ssl_spark", "train"))
    assert {"methods/spark", "losses/masked_reconstruction", "optimizers/factories"} <= spark - cell
    assert "methods/byol" not in spark
    assert not [name for name in cell | spark if name.startswith(("ingest", "samples", "cli", "label_server"))]
    assert all(made_by._file(name) for name in made_by.NOT_FOLLOWED)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["ct_classification", "ct_ssl_spark"])
def test_no_module_that_a_training_loads_is_missing(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = configurations(bundle, "train")
    script = "import sys, pydoc\nfor name in sys.argv[1:]: assert pydoc.locate(name), name\nprint(*sys.modules)"
    command = [sys.executable, "-c", script, *made_by._named(files)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split()
    monkeypatch.setattr(made_by, "NOT_FOLLOWED", ())
    known = made_by.modules_run("medssl_monai.runs.pretrain", files)
    ours = {made_by._file(name) or PACKAGE for name in loaded if made_by.OURS.fullmatch(name)}
    # A package's own file is loaded with each of its modules; it is followed where something is imported from it.
    assert {file for file in ours if file.name != "__init__.py"} <= set(known)
