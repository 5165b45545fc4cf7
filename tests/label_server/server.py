"""A label server in a process of its own, as a user starts it, and a client that speaks plain HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback import ending, free_port

ROOT = Path(__file__).resolve().parents[2]
LABEL_PYTHON = Path(os.environ.get("MEDSSL_LABEL_PYTHON", ROOT / ".venv-label" / "bin" / "python"))
WITHOUT_ENVIRONMENT = not LABEL_PYTHON.is_file()
REASON = "needs the environment with MONAI Label: make label-env"
START_SECONDS = 540


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Requests as any program sends them."""

    address: str

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        elif form or files:
            data, sent["Content-Type"] = multipart(form or {}, files or {})
        request = urllib.request.Request(self.address + path, data=data, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=500) as response:
                return Answer(response.status, response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read())

    def infer(self, model: str, image: str, **params: Any) -> Answer:
        return self.ask(
            "POST",
            f"/infer/{model}?{urllib.parse.urlencode({'image': image, 'output': 'json'})}",
            form={"params": json.dumps(params)} if params else None,
        )

    def label(self, image: str, content: Any, folder: Path, tag: str = "final") -> Answer:
        file = folder / "label.json"
        file.write_text(json.dumps(content), encoding="utf-8")
        query = urllib.parse.urlencode({"image": image, "tag": tag})
        return self.ask("PUT", f"/datastore/label?{query}", files={"label": file})

    def images(self) -> list[str]:
        return list(self.ask("GET", "/datastore/?output=all").json["objects"])

    def wait_for(self, path: str, seconds: float = 500) -> dict[str, Any]:
        """The status of a task once it is over."""
        deadline = time.monotonic() + seconds
        while True:
            task: dict[str, Any] = self.ask("GET", path).json
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            assert time.monotonic() < deadline, task
            time.sleep(0.5)


def multipart(form: Mapping[str, str], files: Mapping[str, Path]) -> tuple[bytes, str]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in form.items()
    ]
    for name, path in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{path.name}"\r\n'
        parts += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", path.read_bytes(), b"\r\n"]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


@contextmanager
def running_server(studies: str, work: Path, *options: str, port: int | None = None) -> Iterator[Client]:
    """`medssl label-serve` until the block ends."""
    port = port or free_port()
    log = work.with_name(f"{work.name}-{port}.log")
    command = [sys.executable, "-m", "medssl_monai", "label-serve", "--studies", studies, "--work", str(work)]
    command += ["--port", str(port), "--python", str(LABEL_PYTHON), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=work.parent)
        with ending(process):
            client = Client(f"http://127.0.0.1:{port}")
            wait_until_up(client, process, log)
            yield client


def wait_until_up(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if client.ask("GET", "/info/").status == 200:
                return
        except OSError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)
