"""From where clients may reach the server."""

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import reply

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


def own_hosts() -> list[str]:
    """Return the names and addresses of this computer."""
    # The first two are what the server prints when it serves the whole network.
    found = {"0.0.0.0", "::", "127.0.0.1", "::1"}
    for addresses in psutil.net_if_addrs().values():
        found |= {one.address.split("%")[0] for one in addresses if one.family in (socket.AF_INET, socket.AF_INET6)}
    names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
    return [*sorted(names), *sorted(found)]


def as_in_header(host: str) -> str:
    """Return a name or address as the header ``Host`` has it: an address of version 6 in brackets."""
    return f"[{host}]" if ":" in host else host


class KnownHosts(TrustedHostMiddleware):
    """Starlette's check of the header ``Host``. Earlier versions of it tell upper and lower case apart."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] == "http":
            headers = [(key, value.lower() if key == b"host" else value) for key, value in scope["headers"]]
            scope = {**scope, "headers": headers}
        await super().__call__(scope, receive, send)


class SameOrigin:
    """Refuses what another site's page asks for in the visitor's browser; links may lead to the server.

    Browsers tell the page's origin, or its relation to the server, with each request. Other programs tell neither.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str] = ()) -> None:
        """Let pages of the server itself and of ``origins`` (``https://viewer.example.org``) in."""
        self.app = app
        self.origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] == "http" and self._is_foreign(scope["method"], Headers(scope=scope)):
            await reply(403, "a page of another site may not use this server")(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_foreign(self, method: str, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            return origin not in self.origins and not _is_of(origin, headers.get("host", ""))
        is_link = method in READING and headers.get("sec-fetch-mode") == "navigate"
        return not is_link and headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _is_of(origin: str, host: str) -> bool:
    """Tell whether a page comes from the server itself. A proxy may use another scheme than the server."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
