"""The reverse proxy: what its configuration says, and the real nginx before a server that stands for the real one."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medssl_monai.errors import ConfigError
from medssl_monai.label_server.nginx import ProxySite, nginx_site
from tests.loopback import free_port

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs Debian's package nginx")

PEOPLE = {"ann": "annotators", "tom": "trainers"}


def test_names_that_would_change_the_meaning_are_refused() -> None:
    for name in ("a b", "a;", "a{", "$host", ""):
        with pytest.raises(ConfigError, match="host name"):
            ProxySite(name)
    with pytest.raises(ConfigError, match="absolute"):
        ProxySite("a.example", certificate="../x;")


def test_a_folder_opens_no_way_to_a_pacs() -> None:
    assert "/proxy/dicom" not in nginx_site(ProxySite("a.example"))
    assert "/proxy/dicom" in nginx_site(ProxySite("a.example", pacs=True))


class Upstream(BaseHTTPRequestHandler):
    """Says what reached it."""

    def answer(self) -> None:
        body = f"{self.command} {self.path} {self.headers['Host']} {self.headers.get('Authorization', '-')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ssl.SSLContext, int]]:
    """nginx with the shipped configuration, a certificate of the moment, and two people."""
    assert NGINX is not None
    folder = tmp_path_factory.mktemp("nginx")
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    for person, role in PEOPLE.items():
        secret = subprocess.run(
            ["openssl", "passwd", "-apr1", f"{person}-secret"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for file in {role, "annotators"}:
            with (folder / file).open("a") as out:
                out.write(f"{person}:{secret}\n")
    folder.chmod(0o755)
    for path in (folder, *folder.parents):
        if path.stat().st_uid == 0 and path.name.startswith("pytest-"):
            path.chmod(0o755)
    port = free_port()
    site = ProxySite(
        "localhost",
        upstream_port=upstream.server_port,
        listen=f"127.0.0.1:{port}",
        certificate=str(certificate),
        certificate_key=str(key),
        annotators=str(folder / "annotators"),
        trainers=str(folder / "trainers"),
        largest_upload_mb=1,
        pacs=True,
    )
    own = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{own}{nginx_site(site)}}}\n"
    )
    user = ["-g", "user root;"] if folder.owner() == "root" else []
    command = [NGINX, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "error.log"), *user]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    process = subprocess.Popen(command)
    context = ssl.create_default_context(cafile=str(certificate))
    try:
        deadline = time.monotonic() + 30
        while _ask(f"https://localhost:{port}", context, "GET", "/info/")[0] == 0:
            assert time.monotonic() < deadline and process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield f"https://localhost:{port}", context, upstream.server_port
    finally:
        process.terminate()
        process.wait(timeout=20)
        upstream.shutdown()
        upstream.server_close()


def _ask(
    address: str, context: ssl.SSLContext, method: str, path: str, person: str | None = None, body: bytes | None = None
) -> tuple[int, str]:
    headers = {}
    if person is not None:
        name, _, secret = person.partition(":")
        secret = secret or f"{name}-secret"
        headers["Authorization"] = "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
    request = urllib.request.Request(address + path, method=method, headers=headers, data=body)
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as response:
            assert response.headers["access-control-allow-origin"] is None
            return int(response.status), response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except urllib.error.URLError:
        return 0, ""


@needs_nginx
def test_strangers_are_refused(proxy: tuple[str, ssl.SSLContext, int]) -> None:
    address, context, _ = proxy
    for method, path in (
        ("GET", "/info/"),
        ("POST", "/infer/classification?image=x"),
        ("POST", "/train/finetuning"),
        ("DELETE", "/train/"),
        ("GET", "/datastore/image?image=x"),
        ("GET", "/proxy/dicom/qido/studies"),
        ("GET", "/ohif/"),
        ("GET", "/form/"),
        ("GET", "/form/slice?series=x&position=0"),
        ("PUT", "/form/class"),
    ):
        assert _ask(address, context, method, path)[0] == 401, path
        assert _ask(address, context, method, path, "ann:wrong")[0] == 401, path
        assert _ask(address, context, method, path, "stranger")[0] == 401, path


@needs_nginx
def test_people_come_through_without_their_passwords(proxy: tuple[str, ssl.SSLContext, int]) -> None:
    address, context, upstream = proxy
    for method, path in (
        ("GET", "/info/"),
        ("PUT", "/datastore/label?image=x&tag=final"),
        ("POST", "/infer/classification?image=x"),
        ("GET", "/train/"),
        ("GET", "/proxy/dicom/qido/studies"),
        ("GET", "/form/"),
        ("GET", "/form/slice?series=x&position=0"),
        ("POST", "/form/next"),
        ("PUT", "/form/class"),
    ):
        status, seen = _ask(address, context, method, path, "ann", body=b"x" if method in ("PUT", "POST") else None)
        assert (status, seen) == (200, f"{method} {path} 127.0.0.1:{upstream} -"), path


@needs_nginx
def test_only_trainers_train(proxy: tuple[str, ssl.SSLContext, int]) -> None:
    address, context, _ = proxy
    requests = [("POST", "/train/finetuning"), ("DELETE", "/train/"), ("POST", "/batch/infer/classification")]
    for method, path in [*requests, ("DELETE", "/batch/infer")]:
        assert _ask(address, context, method, path, "ann")[0] == 401, path
        status, seen = _ask(address, context, method, path, "tom")
        assert status == 200, path
        assert seen.startswith(f"{method} {path}")
    assert _ask(address, context, "GET", "/train/", "tom")[0] == 200


@needs_nginx
def test_closed_endpoints_stay_closed_for_everybody(proxy: tuple[str, ssl.SSLContext, int]) -> None:
    address, context, _ = proxy
    for method, path in (
        ("PUT", "/model/classification"),
        ("DELETE", "/model/classification"),
        ("POST", "/reload"),
        ("GET", "/logs/"),
        ("GET", "/datastore/dataset"),
        ("DELETE", "/datastore/image?id=x"),
        ("POST", "/proxy/dicom/stow/studies"),
        ("POST", "/train/"),
        ("GET", "/info/../logs/"),
        ("PUT", "/form/"),
        ("GET", "/form/other"),
        ("GET", "/%6cogs/"),
    ):
        assert _ask(address, context, method, path, "tom")[0] in (403, 404), path


@needs_nginx
def test_plain_http_and_large_uploads_are_refused(proxy: tuple[str, ssl.SSLContext, int]) -> None:
    address, context, _ = proxy
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(address.replace("https", "http") + "/info/")
    caught.value.close()
    assert caught.value.code == 400
    assert _ask(address, context, "PUT", "/datastore/image", "ann", body=bytes(2 << 20))[0] in (413, 0)
