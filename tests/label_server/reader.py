"""The reader's form without MONAI Label: over a store, with a strategy that takes the images in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse

from medssl_monai.errors import MedSSLError
from medssl_monai.label_server.form import ReaderForm
from medssl_monai.label_server.form_routes import form_routes
from medssl_monai.label_server.preparation import prepare_server
from medssl_monai.label_server.records import Records
from medssl_monai.label_server.refusals import http_status
from medssl_monai.label_server.studies import Studies, open_studies
from medssl_monai.label_server.workspace import ServerSettings
from tests.loopback import free_port

NO_NETWORK = SimpleNamespace(usable=False)


def served(classes: tuple[str, ...], window: Any = "wide") -> Any:
    """What the form reads of a network."""
    return SimpleNamespace(usable=True, view=SimpleNamespace(classes=classes, window=window))


def form_over(studies: Studies, network: Any = NO_NETWORK) -> ReaderForm:
    records = Records(studies.workspace)

    def in_order(strategy: str, skipped: Collection[str]) -> str | None:
        unlabelled = (i for i in studies.ids() if records.class_label(studies.record_name(i)) is None)
        return next((i for i in unlabelled if i not in skipped), None)

    return ReaderForm(studies, records, network, in_order, {"uncertain": "the least certain", "random": "any"})


def form_of_store(store: Path, work: Path, network: Any = NO_NETWORK) -> ReaderForm:
    workspace, _ = prepare_server(ServerSettings(studies=str(store)), work=work)
    return form_over(open_studies(workspace), network)


def application(form: ReaderForm) -> Starlette:
    def tell(request: Any, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=http_status(error))

    return Starlette(routes=form_routes(lambda: form), exception_handlers={MedSSLError: tell})


@contextmanager
def running_form(form: ReaderForm) -> Iterator[str]:
    """The page's address while the block runs."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application(form), port=port, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/form/"
    finally:
        server.should_exit = True
        thread.join()
