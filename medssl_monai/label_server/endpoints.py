"""The open part of MONAI Label's REST interface, in one table for the server and for the reverse proxy.

Everything else is closed for everybody: replacing or deleting weights, deleting images, reloading the app, logs.
MONAI Label's own token check is not used, because it refuses every valid token (PyJWT 2 needs the algorithms named).
The proxy authenticates.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """Methods that are open on matching paths, and who may use them behind the proxy: annotators, or only trainers."""

    pattern: str
    methods: tuple[str, ...]
    role: str = "annotator"
    pacs_only: bool = False


GET = ("GET", "HEAD")
# No path may match two patterns, because nginx takes the first one. One pattern may stand twice, for two roles.
OPEN = (
    Endpoint(r"/", GET),
    Endpoint(r"/(openapi\.json|favicon\.ico|docs)", GET),
    Endpoint(r"/info/?", GET),
    Endpoint(r"/datastore/", GET),
    Endpoint(r"/datastore/(image|label)/info", (*GET, "PUT")),
    Endpoint(r"/datastore/image", (*GET, "PUT")),
    Endpoint(r"/datastore/label", (*GET, "PUT", "DELETE")),
    Endpoint(r"/session/([A-Za-z0-9-]*)", (*GET, "PUT", "DELETE")),
    Endpoint(r"/infer/[A-Za-z0-9_]+", ("POST",)),
    Endpoint(r"/activelearning/[A-Za-z0-9_]+", ("POST",)),
    Endpoint(r"/model/info/[A-Za-z0-9_]+", GET),
    Endpoint(r"/train/", GET),
    Endpoint(r"/batch/infer", GET),
    Endpoint(r"/train/[A-Za-z0-9_]+", ("POST",), "trainer"),
    Endpoint(r"/train/", ("DELETE",), "trainer"),
    Endpoint(r"/batch/infer/[A-Za-z0-9_]+", ("POST",), "trainer"),
    Endpoint(r"/batch/infer", ("DELETE",), "trainer"),
    Endpoint(r"/form/(start|series|slice)?", GET),
    Endpoint(r"/form/next", ("POST",)),
    Endpoint(r"/form/class", ("PUT",)),
    Endpoint(r"/static/.*", GET),
    Endpoint(r"/ohif/.*", GET),
    Endpoint(r"/proxy/dicom/.*", GET, pacs_only=True),
)


def role_of(method: str, path: str) -> str | None:
    """Who may send a request; None if it is closed."""
    for endpoint in OPEN:
        if method in endpoint.methods and re.fullmatch(endpoint.pattern, path):
            return endpoint.role
    return None


def is_open(method: str, path: str, *, pacs: bool) -> bool:
    """Whether the server answers a request at all."""
    return any(
        method in one.methods and re.fullmatch(one.pattern, path) and (pacs or not one.pacs_only) for one in OPEN
    )
