"""The reader's form over HTTP: the page, and what its script asks. Needs Starlette, which MONAI Label brings.

The page is one file without any other source. Its Content-Security-Policy names the hashes of its own script and style,
so that nothing else can run in it.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from medssl_monai.errors import InputError
from medssl_monai.label_server.form import RUN, ReaderForm

PAGE = (Path(__file__).parent / "form.html").read_text(encoding="utf-8")
PRIVATE = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def content_security_policy(page: str) -> str:
    """The policy of a page: its own ``<script>`` and ``<style>``, pictures from memory, requests to its own server."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in found)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def form_routes(form: Callable[[], ReaderForm]) -> list[Route]:
    """Routes below ``/form/``; ``form`` is called at each request, because the app exists only after the start."""
    page = HTMLResponse(PAGE, headers={**PRIVATE, "Content-Security-Policy": content_security_policy(PAGE)})

    async def show_page(request: Request) -> Response:
        return page

    async def start(request: Request) -> Response:
        return JSONResponse(form().start(), headers=PRIVATE)

    async def next_series(request: Request) -> Response:
        sent = await _sent(request, strategy=str, skipped=list)
        return JSONResponse(form().next(sent["strategy"], [str(one) for one in sent["skipped"]]), headers=PRIVATE)

    async def series(request: Request) -> Response:
        return JSONResponse(form().series(request.query_params.get("series", "")), headers=PRIVATE)

    async def picture(request: Request) -> Response:
        asked = request.query_params
        position = asked.get("position", "")
        if not (position.isascii() and position.isdigit() and len(position) < 10):
            raise InputError(f"position: must be a whole number from 0, found {position[:40]!r}")
        content = form().picture(asked.get("series", ""), int(position), asked.get("window", RUN))
        return Response(content, media_type="image/png", headers=PRIVATE)

    async def save(request: Request) -> Response:
        sent = await _sent(request, series=str, label=str | None, before=dict | None)
        form().save(sent["series"], sent["label"], sent["before"])
        return JSONResponse({}, headers=PRIVATE)

    return [
        Route("/form/", show_page),
        Route("/form/start", start),
        Route("/form/next", next_series, methods=["POST"]),
        Route("/form/series", series),
        Route("/form/slice", picture),
        Route("/form/class", save, methods=["PUT"]),
    ]


async def _sent(request: Request, **kinds: Any) -> dict[str, Any]:
    """The JSON object of a request. Other pages can send no JSON type without being asked, and are refused.

    Raises:
        InputError: not JSON, or an entry is missing or of another kind.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InputError("form: send JSON, with Content-Type: application/json")
    content = await request.json()
    for name, kind in kinds.items():
        if not isinstance(content, dict) or name not in content or not isinstance(content[name], kind):
            raise InputError(f"form: the request must be an object with {', '.join(kinds)}; {name} is missing or wrong")
    return dict(content)
