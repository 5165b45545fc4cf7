"""Files below a URL, read through fsspec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medssl_monai.atomic import write_atomically
from medssl_monai.errors import MedSSLError, StoreError
from medssl_monai.store.disk import writing, writing_among_others

PACKAGES = {
    "s3": "medssl-monai[s3]",
    "s3a": "medssl-monai[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}


class Objects:
    """Files below a URL, such as ``s3://bucket/folder``.

    Who may read, and where the server is, is fsspec's and the provider's own setting (for S3 the AWS variables and
    files, or ``FSSPEC_S3_ENDPOINT_URL``), never part of the URL. It may be pickled and forked.

    Args:
        url: of the folder.

    Raises:
        StoreError: fsspec knows no such protocol or needs a package for it; or the URL holds credentials.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        if "@" in urlsplit(url).netloc:
            raise StoreError(
                "store URL: must not hold credentials, which runs would record; leave out what stands before the @, "
                "and set them as the provider does (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            )
        self._opened: tuple[int, Any] | None = None
        self._files()

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes of a file.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the server cannot be reached, or refuses.
        """
        with self._told(name):
            content: bytes = self._files().cat_file(f"{self.url}/{name}", start=begin, end=end)
        return content

    def copy(self, name: str, to: Path) -> None:
        """Copy a file, whole or not at all.

        Raises:
            FileNotFoundError, StoreError: as `read`.
            InputError: the disk refuses.
        """
        with writing(to.parent):
            to.parent.mkdir(parents=True, exist_ok=True)
        with self._told(name), writing_among_others(to.parent):
            write_atomically(to, lambda draft: self._files().get_file(f"{self.url}/{name}", str(draft)))

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, MedSSLError):
            raise
        except Exception as error:  # each provider has exceptions of its own
            why = str(error).partition("\n")[0] or type(error).__name__
            raise StoreError(
                f"store {self.url}: {name} cannot be read ({why}); check the URL, the network and the credentials, "
                "then run the same command again"
            ) from error

    def _files(self) -> Any:
        """The file system; each process has its own, since connections and their threads do not survive a fork."""
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            protocol = self.url.partition(":")[0]
            try:
                files = fsspec.filesystem(protocol, skip_instance_cache=True)
            except ImportError as error:
                package = PACKAGES.get(protocol, "")
                remedy = f"`pip install '{package}'`" if package else str(error)
                raise StoreError(
                    f"store {self.url}: {protocol} needs a package that is not installed; {remedy}"
                ) from error
            except ValueError as error:
                raise StoreError(
                    f"store {self.url}: {protocol}:// is no protocol that fsspec knows; give a folder, or a URL "
                    "such as s3://bucket/folder"
                ) from error
            self._opened = os.getpid(), files
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}
