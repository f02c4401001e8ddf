"""Requests to a server that may be slow, gone, or send without end: each has a limit of time and size."""

import time
from collections.abc import Iterator
from typing import Any

import requests

CONNECTING = 5.0
"""Seconds in which a server must accept a connection."""

SILENCE = 60.0
"""Seconds for which a server may send nothing."""


class TooLarge(requests.RequestException):
    """A reply is larger than its limit."""


class BoundedSession(requests.Session):
    """A session each of whose replies ends, by itself or by an exception of ``requests``. It follows no redirection."""

    def __init__(self, largest: int, seconds: float) -> None:
        """Make a session.

        Args:
            largest: bytes that a reply may have.
            seconds: in which a reply must be complete.
        """
        super().__init__()
        self._largest, self._seconds = largest, seconds

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        options |= {"timeout": (CONNECTING, SILENCE), "stream": True, "allow_redirects": False}
        end = time.monotonic() + self._seconds
        response = super().send(request, **options)
        if response.is_redirect:
            response.close()
            raise requests.TooManyRedirects
        response.raw = _BoundedBody(response.raw, self._largest, end)
        return response


class _BoundedBody:
    """What ``requests`` reads a reply from."""

    def __init__(self, body: Any, largest: int, end: float) -> None:
        self._body, self._left, self._end = body, largest, end

    def stream(self, amount: int, decode_content: bool | None = None) -> Iterator[bytes]:
        # The body's own method waits until so many bytes have come, however slowly.
        while part := self._body.read1(amount, decode_content=decode_content):
            self._left -= len(part)
            if self._left < 0:
                raise TooLarge
            if time.monotonic() > self._end:
                raise requests.Timeout
            yield part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
