"""The configuration of a reverse proxy (nginx): TLS, passwords, and only what the endpoint table opens.

The server listens on loopback and does not authenticate. nginx does so in front of it.
"""

import re
import zlib
from dataclasses import dataclass

from medssl_monai.errors import ConfigError
from medssl_monai.label_server.endpoints import OPEN, Endpoint

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}")
_PATH = re.compile(r"/[A-Za-z0-9_./-]+")


@dataclass(frozen=True)
class ProxySite:
    """The values in a site's configuration.

    Attributes:
        server_name: host name that browsers and viewers use.
        upstream_port: of the label server on this machine.
        listen: address and port of the proxy.
        certificate, certificate_key: PEM files.
        annotators: password file (``htpasswd``) of users who may view, label and query the classifier.
        trainers: password file of users who may also train and run batches.
        largest_upload_mb: of an image.
        pacs: the server works on a PACS, and viewers read images through it.
    """

    server_name: str
    upstream_port: int = 8000
    listen: str = "443"
    certificate: str = "/etc/ssl/certs/medssl-label.pem"
    certificate_key: str = "/etc/ssl/private/medssl-label.key"
    annotators: str = "/etc/nginx/medssl-label.annotators"
    trainers: str = "/etc/nginx/medssl-label.trainers"
    largest_upload_mb: int = 2048
    pacs: bool = False

    def __post_init__(self) -> None:
        """Refuse values that would change the meaning of the configuration.

        Raises:
            ConfigError: a host name or path with other characters.
        """
        if not _HOST.fullmatch(self.server_name):
            raise ConfigError(f"server name {self.server_name!r}: must be a host name such as label.hospital.example")
        for path in (self.certificate, self.certificate_key, self.annotators, self.trainers):
            if not _PATH.fullmatch(path):
                raise ConfigError(f"path {path!r}: must be absolute, of letters, digits, _ . / and -")


def nginx_site(site: ProxySite) -> str:
    """The configuration of an nginx site, for ``sites-available``."""
    by_pattern: dict[str, list[Endpoint]] = {}
    for one in OPEN:
        if site.pacs or not one.pacs_only:
            by_pattern.setdefault(one.pattern, []).append(one)
    blocks = "".join(_location(site, pattern, found) for pattern, found in by_pattern.items())
    return f"""\
# Reverse proxy for a medssl label server, made by `medssl label-serve --nginx`. Everything not listed here is closed.
limit_req_zone $binary_remote_addr zone=medssl_label:1m rate=20r/s;
limit_conn_zone $binary_remote_addr zone=medssl_label_connections:1m;

server {{
    listen {site.listen} ssl;
    server_name {site.server_name};
    ssl_certificate {site.certificate};
    ssl_certificate_key {site.certificate_key};
    ssl_protocols TLSv1.2 TLSv1.3;
    server_tokens off;
    add_header Strict-Transport-Security "max-age=31536000" always;
    add_header X-Content-Type-Options nosniff always;
    add_header Cache-Control no-store always;

    client_max_body_size {site.largest_upload_mb}m;
    limit_req zone=medssl_label burst=60 nodelay;
    limit_conn medssl_label_connections 20;
    auth_basic "medssl label server";
    auth_basic_user_file {site.annotators};

    proxy_http_version 1.1;
    proxy_set_header Host 127.0.0.1:{site.upstream_port};
    proxy_set_header Authorization "";
    proxy_read_timeout 600s;
    proxy_hide_header Access-Control-Allow-Origin;
    proxy_hide_header Access-Control-Allow-Credentials;

    location / {{ return 404; }}
{blocks}}}
"""


def _location(site: ProxySite, pattern: str, endpoints: list[Endpoint]) -> str:
    """One location for each pattern, because nginx takes the first match; trainers' methods need their password."""
    methods = [method for one in endpoints for method in one.methods]
    target = f"proxy_pass http://127.0.0.1:{site.upstream_port};"
    lines = [f"limit_except {' '.join(m for m in methods if m != 'HEAD')} {{ deny all; }}"]
    reserved = [method for one in endpoints if one.role == "trainer" for method in one.methods]
    if reserved and len(reserved) < len(methods):
        # nginx chooses a password file by location, not by method, so these methods go to an inner location.
        inner = f"@trainers_{abs(zlib.crc32(pattern.encode()))}"
        lines += [f"error_page 418 = {inner};", f"if ($request_method ~ ^({'|'.join(reserved)})$) {{ return 418; }}"]
        extra = f"    location {inner} {{\n        auth_basic_user_file {site.trainers};\n        {target}\n    }}\n"
    else:
        lines += [f"auth_basic_user_file {site.trainers};"] if reserved else []
        extra = ""
    body = "".join(f"        {line}\n" for line in [*lines, target])
    return f"    location ~ ^{pattern}$ {{\n{body}    }}\n{extra}"
