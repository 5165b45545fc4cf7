"""The ``medssl`` command, called in this process."""

import sys

import pytest

from medssl_monai.cli.main import main


@pytest.fixture
def medssl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Call the console script's entry point; returns (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["medssl", *map(str, words)])
        monkeypatch.setenv("PYTHONWARNINGS", "error")
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call
