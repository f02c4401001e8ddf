"""From where clients may reach the server."""

import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import reply

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


def own_names() -> list[str]:
    """Return the names of this computer."""
    return sorted({"localhost", socket.gethostname().lower(), socket.getfqdn().lower()})


def own_addresses() -> list[str]:
    """Return the addresses that this computer has now."""
    # The first two are what the server prints when it serves the whole network.
    found = {"0.0.0.0", "::", "127.0.0.1", "::1"}
    for addresses in psutil.net_if_addrs().values():
        found |= {one.address.split("%")[0] for one in addresses if one.family in (socket.AF_INET, socket.AF_INET6)}
    return sorted(found)


def as_in_header(host: str) -> str:
    """Return a name or address as the header ``Host`` has it: an address of version 6 in brackets."""
    return f"[{host}]" if ":" in host else host


class KnownHosts:
    """Starlette's check of the header ``Host``, for a computer whose addresses change.

    Starlette's earlier versions tell upper and lower case apart.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        """Let requests to ``names`` and to this computer's addresses through."""
        self._app, self._names = app, names
        self._check = self._with(own_addresses())

    def _with(self, addresses: Sequence[str]) -> TrustedHostMiddleware:
        self._addresses = addresses
        hosts = [as_in_header(host) for host in (*self._names, *addresses)]
        return TrustedHostMiddleware(self._app, allowed_hosts=hosts, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] == "http":
            headers = [(key, value.lower() if key == b"host" else value) for key, value in scope["headers"]]
            scope = {**scope, "headers": headers}
            # A laptop may be in another network by now.
            address = _address(Headers(scope=scope).get("host", ""))
            if address not in ("", *self._addresses):
                self._check = self._with(own_addresses())
        await self._check(scope, receive, send)


def _address(host: str) -> str:
    """Return the address in a header ``Host``; empty if it has a name."""
    try:
        return str(ip_address(urlsplit(f"//{host}").hostname or ""))
    except ValueError:
        return ""


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
