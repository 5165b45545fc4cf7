"""The ``medssl`` command: verbs, error messages, exit codes.

Exit codes: 0 done, 1 a problem with the input (one sentence on stderr), 2 wrong usage, 130 interrupted. With
MEDSSL_TRACEBACK=1 a problem with the input also shows its traceback.
Neither this module nor those of the verbs import anything heavy, so that ``--help`` answers at once.
"""

import functools
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer

from medssl_monai.cli import (
    audit,
    bundle,
    demo,
    evaluate,
    export,
    finetune,
    import_weights,
    ingest,
    keys,
    label_serve,
    phantom,
    predict,
    pretrain,
    rank,
    sample_data,
    similar,
    study,
    verify,
    where,
)
from medssl_monai.errors import TRACEBACK, MedSSLError
from medssl_monai.plain_text import plain_text
from medssl_monai.progress import QUIET
from medssl_monai.version import __version__

app = typer.Typer(
    name="medssl",
    help="Turn an archive of CT into a good classifier: ingest, pre-train without labels, fine-tune on few.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results, warnings and errors alone: no progress.")]


_RESUMABLE = {"ingest", "pretrain", "finetune", "study"}


def _command(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb with ``--quiet``, and with a message at Ctrl-C that says how to continue; typer alone exits silently."""

    @functools.wraps(verb)
    def run(*args: Any, quiet: bool = False, **kwargs: Any) -> Any:
        try:
            with _quiet() if quiet else nullcontext():
                return verb(*args, **kwargs)
        except KeyboardInterrupt as stopped:
            name = verb.__module__.rsplit(".", 1)[-1]
            said = "interrupted" + "; the same command carries on from here" * (name in _RESUMABLE)
            typer.echo(f"medssl: {str(stopped) or said}", err=True)
            raise typer.Exit(130) from stopped

    own = inspect.signature(verb)
    option = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    vars(run)["__signature__"] = own.replace(parameters=[*own.parameters.values(), option])
    run.__annotations__ = {**verb.__annotations__, "quiet": Quiet}
    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither progress bars, in this process and those that it starts, nor what is logged below a warning."""
    _log_from(logging.WARNING)
    before = os.environ.get(QUIET)
    os.environ[QUIET] = "1"
    try:
        yield
    finally:
        os.environ.pop(QUIET)
        if before is not None:
            os.environ[QUIET] = before


VERBS = (
    sample_data,
    phantom,
    ingest,
    audit,
    verify,
    where,
    pretrain,
    rank,
    keys,
    export,
    import_weights,
    finetune,
    evaluate,
    predict,
    similar,
    study,
    label_serve,
    demo,
)
for verb in VERBS:
    name = verb.__name__.rsplit(".", 1)[-1].replace("_", "-")
    app.command(name)(_command(verb.run))
bundles = typer.Typer(help="List the bundles; pack one with a run's weights.", no_args_is_help=True)
for name, run in bundle.VERBS.items():
    bundles.command(name)(_command(run))
app.add_typer(bundles, name="bundle")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Turn an archive of CT into a good classifier: ingest, pre-train without labels, fine-tune on few."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    _quieten()
    logging.lastResort = _BesideBars()
    _log_from(logging.INFO)
    try:
        code = app(prog_name="medssl", standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except MedSSLError as error:
        if os.environ.get(TRACEBACK):
            raise
        typer.echo("\n".join(map(plain_text, f"medssl: {error}".split("\n"))), err=True)
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()  # wrong usage, in typer's own words
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


class _BesideBars(logging.Handler):
    """Writes to stderr, as it is at that moment, and on lines of its own where a progress bar is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            bars = sys.modules.get("tqdm.auto")  # not imported where there can be no bar
            text = self.format(record)
            if bars is None:
                sys.stderr.write(f"{text}\n")
            else:
                bars.tqdm.write(text, file=sys.stderr)
        except Exception:  # as all handlers of logging do: a message that cannot be written must not end a training
            self.handleError(record)


def _log_from(level: int) -> None:
    """Show what this package logs from a level on: INFO tells how a training starts and how long it will take."""
    logging.getLogger("medssl_monai").setLevel(level)
    if logging.lastResort is not None:  # where nobody has configured logging: stderr, as it is at that moment
        logging.lastResort.setLevel(level)


def _quieten() -> None:
    """Hide warnings of libraries, which a user cannot act on; setting PYTHONWARNINGS shows them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MONAI imports MLflow if it is installed
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"  # for loader workers
