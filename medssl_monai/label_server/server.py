"""MONAI Label's web application, restricted to the endpoint table, with errors as sentences. Needs MONAI Label.

MONAI Label starts this through ``--uvicorn_app medssl_monai.label_server.server:app``.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from medssl_monai.label_server import stand_ins

stand_ins.provide()  # before MONAI Label is imported

from monailabel.app import app  # noqa: E402
from monailabel.config import settings  # noqa: E402
from monailabel.interfaces.exception import MONAILabelException  # noqa: E402
from monailabel.interfaces.utils.app import app_instance  # noqa: E402
from monailabel.utils.async_tasks.utils import stop_background_task  # noqa: E402
from starlette.middleware.cors import CORSMiddleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402

from medssl_monai.errors import MedSSLError  # noqa: E402
from medssl_monai.ingest.sources.dicomweb import is_dicomweb  # noqa: E402
from medssl_monai.label_server.endpoints import is_open  # noqa: E402
from medssl_monai.label_server.form_routes import form_routes  # noqa: E402
from medssl_monai.label_server.refusals import http_status  # noqa: E402


class OpenEndpoints:
    """ASGI middleware: answers only open endpoints, and only requests with a host name of this machine.

    A foreign web page can let its own host name point at 127.0.0.1 and send requests from a user's browser (DNS
    rebinding). Such requests carry the foreign host name.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.hosts = set(filter(None, os.environ.get("MEDSSL_LABEL_HOSTS", "").split(",")))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    def _refusal(self, scope: Any) -> JSONResponse | None:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts and name not in self.hosts:
            return JSONResponse({"detail": f"host {name[:80]}: is not a name of this server"}, status_code=400)
        if not is_open(scope["method"], scope["path"], pacs=is_dicomweb(settings.MONAI_LABEL_STUDIES)):
            return JSONResponse({"detail": "closed"}, status_code=403)
        return None


@asynccontextmanager
async def lifespan(served: Any) -> AsyncIterator[None]:
    """Run MONAI Label's own lifespan, then stop its tasks, because the process would wait for them to end."""
    async with _own_lifespan(served):
        yield
    for method in ("train", "batch_infer"):
        stop_background_task(method)


def _tell(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=http_status(error))


def _tell_monailabel(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"detail": str(error.msg)}, status_code=404)


def _tell_json(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"what is sent must be JSON: {error}"}, status_code=400)


app.add_exception_handler(MedSSLError, _tell)
app.add_exception_handler(MONAILabelException, _tell_monailabel)
app.add_exception_handler(json.JSONDecodeError, _tell_json)
# MONAI Label lets any web page read its answers from a user's browser, with credentials. Its own pages need no
# permission.
app.user_middleware = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
app.add_middleware(OpenEndpoints)
app.router.routes.extend(form_routes(lambda: app_instance().reader_form))
_own_lifespan = app.router.lifespan_context
app.router.lifespan_context = lifespan
