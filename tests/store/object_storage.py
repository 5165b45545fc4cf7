"""An S3 server on this machine for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BUCKET = "archive"


@contextmanager
def s3_server() -> Iterator[str]:
    """Its URL; the process's credentials and endpoint are set for as long as it runs."""
    pytest.importorskip("s3fs", reason="needs the extra s3")
    server_of = pytest.importorskip("moto.server", reason="needs moto[s3], flask and flask-cors (extra dev)")
    import boto3

    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        try:
            yield f"s3://{BUCKET}"
        finally:
            server.stop()


def upload(folder: Path, name: str) -> None:
    """Put a folder's files into the bucket."""
    import boto3

    client = boto3.client("s3")
    for file in folder.rglob("*"):
        if file.is_file():
            client.upload_file(str(file), BUCKET, f"{name}/{file.relative_to(folder).as_posix()}")
