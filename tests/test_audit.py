"""`make audit` fails on a vulnerability that pyproject.toml doesn't explain, and says what it couldn't ask."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest

from project import PROJECT

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Run the audit with a service of vulnerabilities that answers as osv.dev does, and finds one in a package."""
    status, name, identity = 200, "", ""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = query["package"]
            affected = {"package": package, "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "999"}]}]}
            found = {"vulns": [{"id": "GHSA-0", "aliases": [identity], "affected": [affected]}]}
            body = json.dumps(found if package["name"] == name else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    service = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()

    def run(package: str = "", found: str = "", answer: int = 200) -> subprocess.CompletedProcess[str]:
        nonlocal status, name, identity
        status, name, identity = answer, package, found
        environment = {
            **os.environ,
            "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
            "PIP_AUDIT_OSV_URL": f"http://127.0.0.1:{service.server_port}",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, PROJECT / ".ci" / "audit.py"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    yield run
    service.shutdown()
    service.server_close()


def test_a_vulnerability_fails(ask):
    done = ask("numpy", "CVE-2000-1")
    assert done.returncode == 1
    assert f"numpy {version('numpy')}: CVE-2000-1, fixed in 999" in done.stderr


def test_an_explained_one_passes(ask):
    done = ask("diskcache", "CVE-2025-69872")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d{2,} packages are audited\.\n", done.stdout)


def test_a_service_that_does_not_answer_is_said(ask):
    done = ask(answer=500)
    assert done.returncode == 0, done.stderr
    assert "NOTHING IS AUDITED" in done.stdout
