"""Who may reach the server from where, and how much a request may contain."""

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

import psutil
from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import reply

LARGEST_BODY = 2**20
"""Bytes of a request's body without files."""

MOST_AT_A_TIME, THREADS = 60, 100
"""Requests that may change something, and threads for all requests. The others are for short questions."""

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""


def own_hosts() -> list[str]:
    """Return the names and addresses of this computer."""
    found = {"127.0.0.1", "::1"}
    for addresses in psutil.net_if_addrs().values():
        found |= {one.address.split("%")[0] for one in addresses if one.family in (socket.AF_INET, socket.AF_INET6)}
    names = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
    # An address of version 6 stands in brackets in the address of a page.
    return [*sorted(names), *sorted(f"[{address}]" if ":" in address else address for address in found)]


class SameOrigin:
    """Refuses changes that another site's page asks for in the visitor's browser.

    Browsers tell the page's origin with each request that may change something. Other programs tell none.
    """

    def __init__(self, app: ASGIApp, origins: Iterable[str] = ()) -> None:
        """Let pages of the server itself and of ``origins`` (``https://viewer.example.org``) in."""
        self.app = app
        self.origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            foreign = origin is not None and origin not in self.origins and not _is_of(origin, headers.get("host", ""))
            if foreign or (origin is None and headers.get("sec-fetch-site", "none") not in ("none", "same-origin")):
                refusal = reply(403, "a page of another site may not change anything on this server")
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_of(origin: str, host: str) -> bool:
    """Tell whether a page comes from the server itself. A proxy may use another scheme than the server."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


class BodyLimits:
    """Limits the bodies of requests: those with files to the largest upload, all others to ``LARGEST_BODY``."""

    def __init__(self, app: ASGIApp, largest_upload: int) -> None:
        """Set the limit for files to ``largest_upload`` bytes."""
        self.uploads = RequestBodyLimitMiddleware(app, largest_upload + LARGEST_BODY)
        self.others = RequestBodyLimitMiddleware(app, LARGEST_BODY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        kind = Headers(scope=scope).get("content-type", "") if scope["type"] == "http" else ""
        limited = self.uploads if kind.lower().startswith("multipart/form-data") else self.others
        await limited(scope, receive, send)


class Crowd:
    """Refuses more requests at a time than the server can work on, so that a short question is always answered."""

    def __init__(self, app: ASGIApp) -> None:
        """Count the requests to ``app``."""
        self.app = app
        self.working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] != "http" or scope["method"] in READING:
            await self.app(scope, receive, send)
            return
        if self.working >= MOST_AT_A_TIME:
            await reply(503, "the server is busy with many requests; try again in a moment")(scope, receive, send)
            return
        self.working += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.working -= 1
