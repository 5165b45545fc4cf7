"""Servers that tests start on loopback: any process that must end with its block, and Orthanc, a real PACS."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
WITHOUT_ORTHANC = shutil.which("Orthanc") is None or not PLUGIN.exists()
REASON = "needs Debian's packages orthanc and orthanc-dicomweb"
USER, PASSWORD = "reader", "a password of tests"
START_SECONDS = 60


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process ends with the block: asked first, killed if it does not listen."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_orthanc(folder: Path, files: Iterable[Path]) -> Iterator[str]:
    """The DICOMweb address of a server with these DICOM files and a password, until the block ends; in `folder`."""
    port = free_port()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Ssl": False},
    }
    address = f"http://127.0.0.1:{port}"
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    with ending(process):
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, address, USER, PASSWORD)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        _wait(opener, f"{address}/system", process)
        for file in files:
            opener.open(f"{address}/instances", data=file.read_bytes()).close()
        yield f"{address}/dicom-web"


def _wait(opener: urllib.request.OpenerDirector, url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            opener.open(url).close()
            return
        except urllib.error.URLError:
            assert process.poll() is None and time.monotonic() < deadline, "Orthanc does not start"
            time.sleep(0.2)
