"""The ``medssl`` command as a user types it: help, exit codes, one-sentence errors."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medssl_monai.cli.options import parse_overrides
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.labels.names import checked_split
from medssl_monai.progress import QUIET, progress_bar
from medssl_monai.runs.step_log import AT_END
from medssl_monai.version import __version__

VERBS = [
    "sample-data",
    "phantom",
    "ingest",
    "audit",
    "pretrain",
    "export",
    "import-weights",
    "finetune",
    "evaluate",
    "predict",
    "similar",
    "study",
    "demo",
]


def test_help_names_every_verb(medssl) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = medssl("--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    for verb in VERBS:
        code, out, _ = medssl(verb, "--help")
        assert code == 0
        assert "--out" in out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from medssl_monai.cli import main\n"
        "heavy = {'torch', 'monai', 'numpy', 'pyarrow', 'matplotlib', 'pydicom'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_help_leads_to_the_keys_of_a_bundle(medssl) -> None:  # type: ignore[no-untyped-def]
    for verb in ("pretrain", "finetune"):
        assert "medssl keys BUNDLE" in " ".join(medssl(verb, "--help")[1].replace("│", "").split())
    code, out, _ = medssl("keys", "ct_ssl_moco")
    assert code == 0
    assert "momentum: 0.999" in out.splitlines()
    assert "queue_length: 4096  # negatives; the paper's 65536 suits a million images" in out.splitlines()
    keys = json.loads(medssl("keys", "ct_ssl_moco", "--json")[1])
    assert {"name": "seed", "default": "0", "meaning": ""} in keys
    code, _, err = medssl("keys", "ct_ssl_mocco")
    assert code == 1
    assert "(did you mean 'ct_ssl_moco'?)" in err


def test_version(medssl) -> None:  # type: ignore[no-untyped-def]
    assert medssl("--version")[:2] == (0, __version__ + "\n")


def test_wrong_usage_exits_with_two(medssl) -> None:  # type: ignore[no-untyped-def]
    assert medssl("ingest")[0] == 2
    assert medssl("pretrain", "spark")[0] == 2
    assert medssl("no-such-verb")[0] == 2


def test_ingest_and_its_errors(medssl, phantom_labels: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = medssl("ingest", empty, "--out", tmp_path / "store")
    assert code == 1
    assert err.splitlines()[-1].startswith("medssl: ")
    assert not (tmp_path / "store").exists()
    code, out, _ = medssl("ingest", phantom_labels.parent, "--out", tmp_path / "store", "--json")
    assert code == 0
    counts = json.loads(out)
    assert sum(row["slices"] for row in counts) == 30
    code, _, err = medssl("ingest", phantom_labels.parent, "--out", tmp_path / "mr", "--modality", "MR")
    assert code == 1
    assert not (tmp_path / "mr").exists()
    code, out, _ = medssl(
        "ingest", phantom_labels.parent, "--out", tmp_path / "store", "--sheet", tmp_path / "sheet.png"
    )
    assert code == 0
    assert (tmp_path / "sheet.png").is_file()
    about = tmp_path / "store" / "store.json"
    about.write_text(re.sub(r'("schema_version": )\d+', r"\g<1>99", about.read_text(encoding="utf-8")))
    code, _, err = medssl("pretrain", "spark", "--data", tmp_path / "store", "--out", tmp_path / "run")
    assert code == 1
    assert "99" in err
    assert not (tmp_path / "run").exists()


def test_an_ingestion_of_nothing_says_what_becomes_of_the_names(medssl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "in").mkdir()
    names = tmp_path / "names.csv"
    code, _, err = medssl("ingest", tmp_path / "in", "--out", tmp_path / "store", "--names", names)
    assert code == 1
    assert err.splitlines()[-1] == f"{names}: it is not written, because nothing was stored"
    assert not names.exists()


def test_ct_with_the_overlay_for_pictures_is_told(medssl, phantom_labels: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = phantom_labels.parent / "phantom-001"
    code, _, err = medssl("pretrain", "moco", "--data", data, "--config", "pictures", "--out", tmp_path / "run")
    assert code == 1
    assert "of another modality" in err and "leave `--config pictures` out" in err
    assert not (tmp_path / "run").exists()


def test_the_last_figures_are_shown_once(medssl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    class Run:
        encoder = "encoder"

        def summary(self) -> list[str]:
            return ["training loss 1.0 at step 2"]

    def pretrain(*args: object, **kwargs: object) -> Run:
        log = logging.getLogger("medssl_monai.handlers.history")
        log.info("training loss %s at step %d", "2.0", 1)
        log.info("training loss %s at step %d", "1.0", 2, extra=AT_END)
        return Run()

    monkeypatch.setattr("medssl_monai.runs.pretrain.pretrain", pretrain)
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])  # as outside of pytest
        code, out, err = medssl("pretrain", "moco", "--data", tmp_path, "--out", tmp_path / "run")
    assert (code, err) == (0, "training loss 2.0 at step 1\n")
    assert out.startswith("training loss 1.0 at step 2\n")


def test_bars_in_a_pipe_write_no_escape_codes_and_leave_lines_to_the_log(  # type: ignore[no-untyped-def]
    medssl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(*args: object, **kwargs: object) -> None:
        with progress_bar(total=2, desc="outer") as outer:
            outer.update()
            for _ in progress_bar(range(3), desc="inner"):
                pass
            logging.getLogger("medssl_monai").info("a line")
        for _ in progress_bar(range(3), desc="later"):
            pass

    monkeypatch.setattr("medssl_monai.samples.phantom.write_phantom", work)
    with monkeypatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        _, _, err = medssl("phantom", "--out", tmp_path)
    assert "outer" in err and "later" in err and "inner" not in err
    assert "\x1b" not in err
    assert "a line" in re.split("[\r\n]", err)


def test_unknown_names_are_told(medssl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    where = ("--data", tmp_path, "--out", tmp_path / "run")
    assert "must be one of spark, swav, moco, byol" in medssl("pretrain", "spork", *where)[2]
    assert "demo" in medssl("pretrain", "spark", *where, "--config", "deom")[2]
    code, _, err = medssl("pretrain", "spark", *where, "epochs=3")
    assert (code, "'epochs' is not a key" in err) == (1, True)
    assert "KEY=VALUE" in medssl("pretrain", "spark", *where, "epochs")[2]
    assert "no finished fine-tuning run" in medssl("predict", tmp_path, tmp_path, "--out", tmp_path / "o")[2]
    assert medssl("export", tmp_path, "--out", tmp_path / "e.safetensors")[0] == 1


def test_rank_names_its_measures(medssl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = medssl("rank", tmp_path)
    assert (code, "--measure is missing; name one of effective_rank, lidar" in err) == (1, True)


def test_studies_are_looked_for_before_environments(medssl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = medssl("label-serve", "--studies", str(tmp_path / "nosuch"))
    assert code == 1
    assert "--studies" in err and "does not exist" in err and "label-env" not in err


def test_quiet_shows_results_alone(medssl, phantom_labels: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ingest = ("ingest", phantom_labels.parent / "phantom-001", "--out", tmp_path / "store")
    _, out, err = medssl(*ingest)
    assert "reading series" in err
    assert logging.getLogger("medssl_monai").level == logging.INFO
    code, again, err = medssl(*ingest, "--quiet")
    assert (code, again, err) == (0, out, "")
    assert logging.getLogger("medssl_monai").level == logging.WARNING
    assert QUIET not in os.environ
    assert "medssl: " in medssl("ingest", tmp_path / "nowhere", "--out", tmp_path / "other", "-q")[2]
    assert logging.getLogger("medssl_monai").level == logging.WARNING
    assert medssl("keys", "nosuch")[0] == 1
    assert logging.getLogger("medssl_monai").level == logging.INFO
    for verb in (*VERBS, "keys", "verify", "where", "label-serve"):
        assert "--quiet" in medssl(verb, "--help")[1], verb
    assert "--quiet" in medssl("bundle", "list", "--help")[1]


@pytest.mark.parametrize(
    "typed, expected",
    [
        ("medssl pre", {"pretrain", "predict"}),
        ("medssl pretrain s", {"spark", "swav"}),
        ("medssl keys ct_c", {"ct_classification"}),
        ("medssl bundle pack ct_ssl_b", {"ct_ssl_byol"}),
        ("medssl evaluate RUN --split va", {"validation"}),
        ("medssl where --na", {"--names"}),
    ],
)
def test_a_shell_completes(medssl, monkeypatch: pytest.MonkeyPatch, typed: str, expected: set[str]) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("_MEDSSL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert set(medssl()[1].split()) == expected


def test_splits_get_a_suggestion(medssl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "labels.csv").write_text("source,label,split\na,x,trian\n", encoding="utf-8")
    err = medssl("audit", tmp_path / "labels.csv")[2]
    assert "found 'trian' (did you mean 'train'?)" in err
    assert checked_split("Val") == "validation"
    with pytest.raises(LabelError, match="did you mean 'test'"):
        checked_split("tset")


def test_ctrl_c_says_how_to_carry_on(medssl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt("stopped after step 3; the same command carries on from here")

    monkeypatch.setattr("medssl_monai.samples.phantom.write_phantom", stopped)
    code, _, err = medssl("phantom", "--out", tmp_path)
    assert code == 130
    assert "medssl: stopped after step 3; the same command carries on" in err


@pytest.mark.parametrize(
    ("verb", "place"),
    [
        ("ingest", "medssl_monai.ingest.build_store"),
        ("pretrain", "medssl_monai.runs.pretrain.pretrain"),
        ("finetune", "medssl_monai.classify.finetune.finetune"),
        ("study", "medssl_monai.experiment.run.study"),
    ],
)
def test_ctrl_c_before_the_first_step_says_how_to_carry_on(  # type: ignore[no-untyped-def]
    medssl, verb: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, stopped)
    data: tuple[object, ...] = ("--data", tmp_path)
    words = {"ingest": (tmp_path,), "study": ("study_demo",), "pretrain": ("moco", *data), "finetune": data}
    code, _, err = medssl(verb, *words[verb], "--out", tmp_path / "out")
    assert (code, err) == (130, "medssl: interrupted; the same command carries on from here\n")


def test_phantom(medssl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, _ = medssl("phantom", "--out", tmp_path / "p", "--patients", 2, "--size", 32, "--slices", 3)
    assert code == 0
    assert (tmp_path / "p" / "labels.csv").is_file()


def test_overrides_are_yaml() -> None:
    assert parse_overrides(["a=1", "b=1e-4", "c=[lung, [0, 80]]", "d=null", "e=text", "f=x=y"]) == {
        "a": 1,
        "b": 1e-4,
        "c": ["lung", [0, 80]],
        "d": None,
        "e": "text",
        "f": "x=y",
    }
    with pytest.raises(ConfigError, match="not YAML"):
        parse_overrides(["a=[1"])
    with pytest.raises(ConfigError, match="data is an option, not a setting of the bundle; write --data VALUE"):
        parse_overrides(["data=STORE"])


@pytest.mark.slow
def test_help_answers_within_half_a_second() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "medssl_monai", "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5
