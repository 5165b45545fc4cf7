"""Start of the server's process: its checks, its Python, its command and environment."""

import importlib.util
import ipaddress
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from medssl_monai.atomic import write_text
from medssl_monai.errors import ConfigError
from medssl_monai.label_server.workspace import ServerSettings, Workspace

CHECKOUT = Path(__file__).resolve().parents[2]
APP_FILE = (
    "# MONAI Label looks here for the app.\nfrom medssl_monai.label_server.app import ClassificationApp  # noqa: F401\n"
)


def check_address(host: str, port: int, *, allow_remote: bool) -> None:
    """Refuse to listen to other machines unless that is allowed: the server does not authenticate.

    Raises:
        ConfigError: the host is not a loopback address, or the port is out of range.
    """
    if not 1 <= port <= 65535:
        raise ConfigError(f"--port: must be 1 to 65535, found {port}; choose another")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not allow_remote:
        raise ConfigError(
            f"--host {host}: the server has no passwords, and everybody who reaches this address would see patients' "
            "images; keep 127.0.0.1 and put a proxy before it (--nginx), or give --allow-remote"
        )


def label_python(given: Path | None = None) -> Path:
    """A Python that has MONAI Label: the given one, this one, or that of ``.venv-label``.

    Raises:
        ConfigError: none of them has it.
    """
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"--python {given}: no such file; name the Python of the environment with MONAI Label")
        return given
    if importlib.util.find_spec("monailabel") is not None:
        return Path(sys.executable)
    for folder in (Path.cwd(), CHECKOUT):
        python = folder / ".venv-label" / "bin" / "python"
        if python.is_file():
            return python
    raise ConfigError(
        "label-serve needs MONAI Label, which has its own environment; make it with `make label-env`, or give "
        "its Python as --python (docs/monai_label.md)"
    )


def write_app(workspace: Workspace) -> None:
    """Write the folder that MONAI Label calls the app: one file that imports ours."""
    write_text(workspace.app / "main.py", APP_FILE)


def server_command(python: Path, workspace: Workspace, settings: ServerSettings, host: str, port: int) -> list[str]:
    """Arguments of the server's process."""
    return [
        *(str(python), "-m", "monailabel.main", "start_server"),
        *("--app", str(workspace.app), "--studies", settings.studies),
        *("--uvicorn_app", "medssl_monai.label_server.server:app"),
        *("--host", host, "--port", str(port), "--log_level", "warning"),
    ]


def server_environment(
    workspace: Workspace, settings: ServerSettings, host: str, base: Mapping[str, str]
) -> dict[str, str]:
    """Variables of the server's process.

    Uploads and sessions stay inside the workspace; a PACS's credentials are passed on for viewers that read images
    through the server.
    """
    names = [host, "127.0.0.1", "localhost", "[::1]"]
    environment = {
        **base,
        "TMPDIR": str(workspace.tmp),
        "MEDSSL_LABEL_WORKSPACE": str(workspace.root),
        "MEDSSL_LABEL_HOSTS": ",".join(dict.fromkeys(names)),
        "MONAI_LABEL_SESSION_PATH": str(workspace.sessions),
        "MONAI_LABEL_PROJECT_NAME": "medssl",
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_TASKS_SCORING": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if settings.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if "MEDSSL_DICOMWEB_USER" in base:
        environment["MONAI_LABEL_DICOMWEB_USERNAME"] = base["MEDSSL_DICOMWEB_USER"]
        environment["MONAI_LABEL_DICOMWEB_PASSWORD"] = base.get("MEDSSL_DICOMWEB_PASSWORD", "")
    if settings.key is None and "MEDSSL_KEY" not in base:
        environment.pop("MEDSSL_KEY", None)
    return environment


def enter(command: list[str], environment: dict[str, str], workspace: Workspace) -> None:
    """Become the server. It starts in its own folder, because it reads a ``.env`` file from the current one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.chdir(workspace.app)
    os.execve(command[0], command, environment)
