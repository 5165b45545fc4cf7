"""Places that are URLs, of stores on object storage, told from folders."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(.*)", re.DOTALL)  # a drive has one letter, and a Path one slash


def remote_url(place: str | Path) -> str | None:
    """The URL that a place is, or None of a file or a folder.

    A `pathlib.Path` of a URL, which has lost a slash, is understood too.

    Examples:
        >>> remote_url("s3://bucket/thorax.store"), remote_url(Path("s3://bucket/thorax.store/"))
        ('s3://bucket/thorax.store', 's3://bucket/thorax.store')
        >>> remote_url("thorax.store") is None
        True
    """
    found = _URL.fullmatch(str(place))
    if found is None or Path(place).exists():
        return None
    protocol, slash, rest = found.groups()
    if protocol.lower() in {"file", "local"} and not slash:
        rest = f"/{rest}"
    return f"{protocol.lower()}://{rest.rstrip('/')}"
