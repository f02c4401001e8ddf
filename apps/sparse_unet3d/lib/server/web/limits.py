"""How much a request may contain, how long its sender may take, and how many the server works on at a time."""

import asyncio

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import reply
from .guard import READING

LARGEST_BODY = 2**20
"""Bytes of a request's body without files."""

SILENCE = 30.0
"""Seconds without any more of a request's body, after which the request ends."""

MOST_AT_A_TIME, THREADS = 60, 100
"""Requests that may change something, and threads for all requests. The others are for short questions."""

UPLOADS = ("/datastore/", "/datastore/image", "/datastore/label", "/session/")


class BodyLimits:
    """Limits the bodies of requests: those with files to the largest upload, all others to ``LARGEST_BODY``."""

    def __init__(self, app: ASGIApp, largest_upload: int) -> None:
        """Set the limit for files to ``largest_upload`` bytes."""
        self.app, self.largest_upload = app, largest_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _, options = parse_options_header(headers.get("content-type"))
        # Python decodes some encodings in a time that grows with the square of the length.
        if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
            await reply(415, "text is read as UTF-8 only")(scope, receive, send)
            return
        path, method = path_of(scope), scope["method"]
        has_file = (method == "PUT" and path in UPLOADS) or (method == "POST" and path.startswith("/infer/"))
        most = LARGEST_BODY + (self.largest_upload if has_file else 0)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            await reply(413, _too_large(most))(scope, receive, send)
            return
        await self.app(scope, _limited(receive, most), send)


def path_of(scope: Scope) -> str:
    """Return the path of a request, without what a proxy puts before all paths."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _too_large(most: int) -> str:
    return f"the request is too large; it may have {most / 2**20:.0f} MB"


# Starlette's own limit answers with plain text, which 3D Slicer's plugin doesn't show.
def _limited(receive: Receive, most: int) -> Receive:
    """Return ``receive`` with an end: who sends half a request would otherwise keep a place for ever.

    Args:
        receive: see ASGI.
        most: bytes of the body.
    """
    is_complete, size = False, 0

    async def limited() -> Message:
        nonlocal is_complete, size
        if is_complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), SILENCE)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"nothing came for {SILENCE:g} seconds; send the request again") from error
        is_complete = not message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > most:
            raise HTTPException(413, _too_large(most))
        return message

    return limited


class Crowd:
    """Refuses more requests at a time than the server can work on, so that a short question is always answered."""

    def __init__(self, app: ASGIApp) -> None:
        """Count the requests to ``app``."""
        self.app = app
        self.working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] != "http" or (scope["method"] in READING and path_of(scope) != "/datastore/dataset"):
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
