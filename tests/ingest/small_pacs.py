"""A PACS in a thread of the test: it speaks as much DICOMweb as ingestion asks for, and may misbehave."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pydicom


@dataclass
class SmallPacs:
    """What it has, and how it misbehaves.

    Attributes:
        address: of its DICOMweb service.
        images: files and their SOPInstanceUIDs by series; series in the order in which they are listed.
        most: matches that it gives at once, whatever it is asked for.
        deaf: it ignores `offset`.
        end_status: what it answers beyond the last match.
        unlisted: series whose images it does not list; it says 404.
        garbled: series of which it gives one image as bytes that are no DICOM.
        drops: connections that it closes without an answer.
        asked: the paths that were asked for.
    """

    address: str = ""
    images: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    most: int = 10**6
    deaf: bool = False
    end_status: int = 200
    unlisted: set[str] = field(default_factory=set)
    garbled: set[str] = field(default_factory=set)
    drops: int = 0
    asked: list[str] = field(default_factory=list)

    def add(self, folder: Path) -> None:
        """All files below a folder, in the order of their names."""
        for path in sorted(folder.rglob("*.dcm")):
            image = pydicom.dcmread(path, stop_before_pixels=True)
            self.images.setdefault(str(image.SeriesInstanceUID), []).append(
                (str(image.SOPInstanceUID), path.read_bytes())
            )

    def answer(self, path: str, offset: int, limit: int) -> tuple[int, str, bytes]:
        """Status, type and body."""
        asked = re.fullmatch(r".*/studies/1\.2/series/([\d.]+)(/instances)?", path)
        if asked is None:
            return self._page([{"0020000D": ["1.2"], "0020000E": [series]} for series in self.images], offset, limit)
        series, listing = asked.groups()
        if listing:
            if series in self.unlisted:
                return 404, "text/plain", b"no"
            return self._page([{"00080018": [image]} for image, _ in self.images[series]], offset, limit)
        parts = [content for _, content in self.images[series]]
        if series in self.garbled:
            parts[0] = b"no DICOM at all " * 20
        body = b"".join(b"--BB\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts)
        return 200, 'multipart/related; type="application/dicom"; boundary=BB', body + b"--BB--\r\n"

    def _page(self, matches: list[dict[str, list[str]]], offset: int, limit: int) -> tuple[int, str, bytes]:
        start = 0 if self.deaf else offset
        page = [
            {tag: {"vr": "UI", "Value": value} for tag, value in match.items()}
            for match in matches[start : start + min(limit, self.most)]
        ]
        return (200 if page else self.end_status), "application/dicom+json", json.dumps(page).encode()


@contextmanager
def small_pacs() -> Iterator[SmallPacs]:
    """One that runs until the block ends."""
    pacs = SmallPacs()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pacs.asked.append(self.path)
            if pacs.drops > 0:
                pacs.drops -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            status, kind, body = pacs.answer(
                parts.path, int(query.get("offset", ["0"])[0]), int(query.get("limit", ["1000000"])[0])
            )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Warning", '299 pacs "PLANTED"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    pacs.address = f"http://127.0.0.1:{server.server_port}/dicom-web"
    try:
        yield pacs
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
