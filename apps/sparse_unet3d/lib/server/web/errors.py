"""Replies to requests that fail: a status, and a sentence in ``detail``, which 3D Slicer's plugin shows."""

import errno
import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException

from lib.core.errors import InputError, Stopped
from lib.core.locking import Locked
from lib.server.dicomweb.errors import ArchiveError

from .requests import describe

logger = logging.getLogger(__name__)

STORAGE = {
    errno.ENOSPC: "the disk of the server is full; free some space on it and try again",
    errno.EDQUOT: "the server's user may not store more on its disk; free some space and try again",
    errno.EROFS: "the disk of the server is read-only; make it writable and try again",
    errno.EFBIG: "the file is too large for the server's disk; move the studies folder to another file system",
    errno.EIO: "the disk of the server failed; try again, and look at the disk if it fails again",
    errno.EMFILE: "the server has too many open files; try again in a moment",
    errno.ENFILE: "the server's computer has too many open files; try again in a moment",
    errno.EACCES: "the server's user has no access to a file of the studies folder; give it access and try again",
    errno.EPERM: "the server's user has no access to a file of the studies folder; give it access and try again",
}
"""Why a file can't be written, by the number of the error. Nothing that was stored before is lost."""


def reply(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Answer with a sentence."""
    return JSONResponse({"detail": sentence}, status, headers)


def add_error_replies(web: FastAPI) -> None:
    """Make every exception a reply with a sentence."""

    @web.exception_handler(HTTPException)
    async def with_status(request: Request, error: HTTPException) -> JSONResponse:
        detail = error.detail
        if (error.status_code, detail) in ((404, "Not Found"), (405, "Method Not Allowed")):
            return reply(
                404, f"{request.method} {request.url.path[:255]!a}: this server has no such request; / lists all"
            )
        return reply(error.status_code, detail, dict(error.headers or {}))

    @web.exception_handler(RequestValidationError)
    async def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        return reply(422, describe(error.errors()))

    @web.exception_handler(InputError)
    async def unusable(_: Request, error: InputError) -> JSONResponse:
        return reply(503 if isinstance(error, (Locked, ArchiveError)) else 400, str(error))

    @web.exception_handler(Stopped)
    async def ending(_: Request, error: Stopped) -> JSONResponse:
        return reply(503, "the server is ending; start it again, and try again then")

    @web.exception_handler(MONAILabelException)
    async def refused(_: Request, error: MONAILabelException) -> JSONResponse:
        return reply(400, str(error.msg))

    @web.exception_handler(OSError)
    async def not_stored(_: Request, error: OSError) -> JSONResponse:
        if error.errno in STORAGE:
            logger.error("Not stored: %s", error)
            return reply(507, f"Not stored: {STORAGE[error.errno]}")
        return failed(error)

    @web.exception_handler(MemoryError)
    async def too_little_memory(_: Request, error: MemoryError) -> JSONResponse:
        logger.error("Too little memory: %s", error)
        return reply(507, "the server has too little memory for this; close other programs there and try again")

    @web.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return failed(error)

    def failed(error: Exception) -> JSONResponse:
        logger.error("A request has failed", exc_info=error)
        return reply(500, f"the server has failed ({type(error).__name__}); its log says more")
