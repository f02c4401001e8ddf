"""The container's health check tells a server that answers, with or without TLS, from one that doesn't."""

import datetime
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from project import PROJECT

Serve = Callable[..., int]


def certificate(folder: Path) -> Path:
    """Write a certificate that nobody vouches for, of another name than localhost, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab.example.org")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    signed = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(1)).sign(key, hashes.SHA256())
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    file = folder / "server.pem"
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password)
    file.write_bytes(private + signed.public_bytes(pem))
    return file


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer ``/auth/`` with a status, and return the port."""
    servers = []

    def start(status: int, certified: Path | None = None) -> int:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/auth/" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        if certified:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certified)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def is_healthy(port: int) -> bool:
    command = [sys.executable, PROJECT / "docker" / "health.py", str(port)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_server_without_tls_is_healthy(serve):
    assert is_healthy(serve(200))


def test_a_server_with_tls_is_healthy(serve, tmp_path):
    assert is_healthy(serve(200, certificate(tmp_path)))


def test_a_server_that_fails_is_not(serve):
    assert not is_healthy(serve(500))


def test_no_server_is_not():
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.server_close()
    assert not is_healthy(server.server_port)
