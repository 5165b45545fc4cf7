"""The client that asks a DICOMweb server: credentials, certificates, patience; and nothing of it in logs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medssl_monai.errors import InputError

TIMEOUT_SECONDS = (10, 300)
STATUS_TO_RETRY = (429, 500, 502, 503, 504)

LOGGERS = ("dicomweb_client.web", "urllib3.connectionpool", "urllib3.util.retry", "requests.sessions")
"""They write addresses, whose queries and UIDs name patients."""


class _OwnRequests(logging.Filter):
    """Leaves out what is logged in threads that ask a PACS for this package; other requests are logged as ever."""

    def __init__(self) -> None:
        super().__init__()
        self.asking = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.asking, "now", False)


_own_requests = _OwnRequests()


@contextmanager
def unlogged() -> Iterator[None]:
    """What this thread asks meanwhile is not logged."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_own_requests)  # once, however often it is called
    before = getattr(_own_requests.asking, "now", False)
    _own_requests.asking.now = True
    try:
        yield
    finally:
        _own_requests.asking.now = before


def dicomweb_client(url: str, verify_tls: bool, attempts: int, seconds_before_retry: float) -> Any:
    """A client of a service, with the credentials of the environment.

    Raises:
        InputError: `dicomweb-client` is not installed.
    """
    try:
        import requests
        from dicomweb_client.api import DICOMwebClient
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry
    except ImportError as error:
        raise InputError(
            f"source {url}: needs the package dicomweb-client, which is not installed; "
            "pip install 'medssl-monai[dicomweb]'"
        ) from error
    session = requests.Session()
    session.verify = (os.environ.get("MEDSSL_DICOMWEB_CA") or True) if verify_tls else False
    user, token = os.environ.get("MEDSSL_DICOMWEB_USER"), os.environ.get("MEDSSL_DICOMWEB_TOKEN")
    if user:
        session.auth = (user, os.environ.get("MEDSSL_DICOMWEB_PASSWORD", ""))
    elif token:
        session.headers["Authorization"] = f"Bearer {token}"
    retry = Retry(
        total=attempts,
        backoff_factor=seconds_before_retry / 2,
        status_forcelist=STATUS_TO_RETRY,
        allowed_methods=["GET"],
        raise_on_status=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    client = DICOMwebClient(url, session=session, timeout=TIMEOUT_SECONDS)
    client.set_http_retry_params(retry=False)
    return client
