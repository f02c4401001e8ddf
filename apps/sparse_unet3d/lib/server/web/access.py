"""Who asks: logins, and whom each route lets in."""

import logging
import threading
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from fastapi.security import OAuth2PasswordBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.core.errors import InputError

from .errors import reply
from .guard import READING
from .limits import path_of
from .requests import Name, Text
from .uploads import FormRoute
from .users import Users

logger = logging.getLogger(__name__)

MOST_FAILURES, FORGOTTEN_AFTER = 10, 60
"""Wrong passwords for one name within so many seconds; then even the right one must wait."""

DOWNLOAD_FOR = 600
"""Seconds for which an image that a person was offered can be downloaded without a token."""

bearer = OAuth2PasswordBearer(tokenUrl="/auth/token", auto_error=False)


class Access:
    """Lets everybody in if there is no file of users, else only the people in it."""

    def __init__(self, users: Users) -> None:
        """Let in who is in the file of ``users``."""
        self.users = users
        self._failures: dict[str, list[float]] = {}
        self._offered: dict[tuple[str, str], float] = {}
        self._offering = threading.Lock()
        # One at a time: each takes 64 MB.
        self._hashing = threading.Lock()

    def user(self, token: Annotated[str | None, Depends(bearer)] = None) -> str | None:
        """Return who asks; None if nobody has to log in.

        Raises:
            HTTPException: 401 without a valid token; 503 if the file of users is damaged.
        """
        try:
            if not self.users.exist():
                return None
            name = self.users.name_of(token) if token else None
        except InputError as error:
            logger.error(error)
            raise HTTPException(
                503, "the server can't read its file of users; who runs it finds in the log what to do"
            ) from error
        if name is None:
            raise HTTPException(401, "log in first: name and password", {"WWW-Authenticate": "Bearer"})
        return name

    def viewer(
        self, request: Request, image: Annotated[Name, Query()], token: Annotated[str | None, Depends(bearer)] = None
    ) -> None:
        """Let in who may download an image.

        3D Slicer's plugin sends no token with this one request. It is let in from the address to which the image was
        just offered.

        Raises:
            HTTPException: as ``user``.
        """
        if self._offered.get((_address(request), image), 0) < time.monotonic():
            self.user(token)

    def let_download(self, request: Request, image_id: str) -> None:
        """Let the address that asks download an image soon without a token."""
        now = time.monotonic()
        with self._offering:
            self._offered = {
                **{key: until for key, until in self._offered.items() if until > now},
                (_address(request), image_id): now + DOWNLOAD_FOR,
            }

    def log_in(self, name: str, password: str) -> str:
        """Return a token.

        Raises:
            HTTPException: 401 for a wrong name or password, 429 after many wrong ones.
        """
        with self._hashing:
            recently = time.monotonic() - FORGOTTEN_AFTER
            failures = [when for when in self._failures.get(name, ()) if when > recently]
            if len(failures) >= MOST_FAILURES:
                raise HTTPException(429, f"too many wrong passwords; wait {FORGOTTEN_AFTER} seconds and log in again")
            token = self.users.log_in(name, password)
            if token is None:
                self._failures = {
                    **{other: all_of for other, all_of in self._failures.items() if all_of[-1] > recently},
                    name: [*failures, time.monotonic()],
                }
                raise HTTPException(401, "wrong name or password", {"WWW-Authenticate": "Bearer"})
            self._failures.pop(name, None)
            return token


class LoginFirst:
    """Refuses who hasn't logged in before the body of a request is read: routes ask only after that."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Let in whom ``access`` knows."""
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see ASGI."""
        if scope["type"] == "http" and scope["method"] not in READING and not path_of(scope).startswith("/auth/"):
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            try:
                self.access.user(token if scheme.lower() == "bearer" else None)
            except HTTPException as error:
                await reply(error.status_code, error.detail, dict(error.headers or {}))(scope, receive, send)
                return
        await self.app(scope, receive, send)


def login_routes(access: Access) -> APIRouter:
    """Return the routes of the plugin's login."""
    router = APIRouter(prefix="/auth", tags=["Login"], route_class=FormRoute)

    @router.get("/", summary="Whether people must log in")
    def enabled() -> JSONResponse:
        return JSONResponse({"enabled": access.users.exist(), "client_id": None, "realm": None})

    @router.post("/token", summary="Log in")
    def token(username: Annotated[Text, Form()], password: Annotated[Text, Form()]) -> JSONResponse:
        if not access.users.exist():
            return JSONResponse({"access_token": None, "token_type": None})
        return JSONResponse({"access_token": access.log_in(username, password), "token_type": "bearer"})

    @router.get("/token/valid", summary="Whose token this is")
    def valid(name: Annotated[str | None, Depends(access.user)]) -> JSONResponse:
        return JSONResponse({"username": name or "anybody"})

    return router


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
