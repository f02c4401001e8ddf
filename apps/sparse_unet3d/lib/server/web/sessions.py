"""Images that belong to no datastore: a client sends one, runs models on it, and it goes away."""

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Response, UploadFile
from fastapi.responses import FileResponse, JSONResponse

from lib.server.slicer.replies import not_found

from .access import Access
from .uploads import FormRoute, received

LONGEST = 3600
"""Seconds after its last use for which a session is kept."""

SHORTEST = 600
"""Least of these seconds: a model may take so long on the image."""

MOST = 20
"""Sessions that are kept at a time; for one more, the one that wasn't used for the longest time ends."""


@dataclass
class _Session:
    image: str
    created: float
    used: float
    kept_for: int
    users: int = 0

    @property
    def is_over(self) -> bool:
        return not self.users and time.time() > self.used + self.kept_for


class Sessions:
    """Sessions in a temporary folder of their own, which ends with the server."""

    def __init__(self) -> None:
        """Make the folder."""
        self._folder = tempfile.TemporaryDirectory(prefix="sessions-")
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def add(self, path: str, expiry: int) -> str:
        """Keep a copy of an image; return the session's id.

        Raises:
            HTTPException: 503 if there are too many that are all in use.
        """
        with self._lock:
            self._make_room()
            session_id = str(uuid.uuid4())
            folder = os.path.join(self._folder.name, session_id)
            os.mkdir(folder)
            image = shutil.copy(path, folder)
            self._sessions[session_id] = _Session(
                image, time.time(), time.time(), max(expiry, SHORTEST) if expiry else LONGEST
            )
            return session_id

    @contextmanager
    def using(self, session_id: str) -> Iterator[str]:
        """Yield the path of a session's image, which stays until the end of the block.

        Raises:
            HTTPException: 404 for an unknown session.
        """
        with self._lock:
            session = self._find(session_id)
            session.users += 1
        try:
            yield session.image
        finally:
            with self._lock:
                session.users -= 1
                session.used = time.time()
                if session_id not in self._sessions:
                    self._remove_files(session)

    def info(self, session_id: str) -> dict[str, Any]:
        """Return what a client may know of a session, in MONAI Label's words.

        Raises:
            HTTPException: 404 for an unknown session.
        """
        session = self._find(session_id)
        return {
            "name": session_id,
            "create_ts": int(session.created),
            "last_access_ts": int(session.used),
            "expiry": session.kept_for,
        }

    def remove(self, session_id: str) -> None:
        """Remove a session and its image.

        Raises:
            HTTPException: 404 for an unknown session.
        """
        with self._lock:
            self._find(session_id)
            self._remove(session_id)

    def _find(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None or session.is_over:
            not_found("there is no such session; it may have ended. Load the image again")
        return session

    def _make_room(self) -> None:
        for session_id in [key for key, session in self._sessions.items() if session.is_over]:
            self._remove(session_id)
        if len(self._sessions) >= MOST:
            idle = [key for key, session in self._sessions.items() if not session.users]
            if not idle:
                raise HTTPException(503, f"{MOST} sessions are in use; try again when a model has finished")
            self._remove(min(idle, key=lambda key: self._sessions[key].used))

    def _remove(self, session_id: str) -> None:
        session = self._sessions.pop(session_id)
        if not session.users:
            self._remove_files(session)

    @staticmethod
    def _remove_files(session: _Session) -> None:
        shutil.rmtree(os.path.dirname(session.image), ignore_errors=True)


def session_routes(sessions: Sessions, access: Access) -> APIRouter:
    """Return the routes below ``/session``."""
    router = APIRouter(prefix="/session", tags=["Session"], route_class=FormRoute, dependencies=[Depends(access.user)])

    @router.put("/", summary="Send an image")
    def create(
        files: list[UploadFile], expiry: Annotated[int, Query(ge=0, le=LONGEST)] = 0, uncompress: bool = False
    ) -> JSONResponse:
        if uncompress or len(files) != 1:
            raise HTTPException(400, "send one image in one file; archives are not unpacked")
        with received(files[0], "image") as path:
            session_id = sessions.add(path, expiry)
        return JSONResponse({"session_id": session_id, "session_info": sessions.info(session_id)})

    @router.get("/{session_id}", summary="What is known of a session")
    def get(session_id: uuid.UUID, update_ts: bool = False, image: bool = False) -> Response:
        if update_ts or image:
            with sessions.using(str(session_id)) as path:
                if image:
                    return FileResponse(path, filename=os.path.basename(path))
        return JSONResponse(sessions.info(str(session_id)))

    @router.delete("/{session_id}", summary="End a session")
    def remove(session_id: uuid.UUID) -> JSONResponse:
        info = sessions.info(str(session_id))
        sessions.remove(str(session_id))
        return JSONResponse(info)

    return router
