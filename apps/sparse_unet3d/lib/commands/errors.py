"""What can go wrong with a server that a command starts, or with the files that it writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.core.errors import InputError


class ServerError(RuntimeError):
    """The server did not do what was asked. The message contains the server's reply and the end of its log."""


@contextmanager
def saying_what_failed(target: Path) -> Iterator[None]:
    """Turn an error of the disk into an ``InputError``, for writers that leave nothing half written at ``target``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename or target}: {error.strerror or error}; nothing was left there") from error
