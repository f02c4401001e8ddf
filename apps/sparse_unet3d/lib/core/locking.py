"""A lock that one thread of one process holds at a time, with a limit to waiting and a name for who holds it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from os import getpid
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import InputError
from .owner import Owner

PATIENCE = 10.0
"""Seconds to wait for a lock. A change holds it for less than a tenth of a second, so that 20 clients who submit at
once wait for 2; what lasts longer is a server that starts, or a disk or a process that hangs."""


class Locked(InputError):
    """Another process or thread holds a lock for too long; the same request may succeed later."""


class OwnedLock:
    """A lock file, which the system releases when its holder ends, and beside it a note of who holds it.

    Args:
        path: the lock file, in an existing folder. The note has its name and ``-owner``.
        what: what the lock protects, for messages.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self._note = path.with_name(f"{path.name}-owner")
        # Threads of one process wait here, where each is woken at once; processes ask again and again.
        self._threads = threading.RLock()
        self._file = FileLock(path)
        self._depth = 0

    @contextmanager
    def hold(self, patience: float = PATIENCE) -> Iterator[None]:
        """Hold the lock; the thread that holds it may do so again.

        Args:
            patience: the most seconds to wait for it.

        Raises:
            Locked: somebody else holds it all that time; says who.
            OSError: the lock file can't be written.
        """
        end = time.monotonic() + patience
        if not self._threads.acquire(timeout=patience):
            raise self._locked(patience)
        try:
            try:
                self._file.acquire(timeout=max(0.0, end - time.monotonic()))
            except Timeout:
                raise self._locked(patience) from None
            try:
                with self._noted():
                    yield
            finally:
                self._file.release()
        finally:
            self._threads.release()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Say in the note that this process holds the lock. A full disk doesn't matter here."""
        self._depth += 1
        try:
            if self._depth == 1:
                note = {
                    "owner": asdict(Owner.of(getpid())),
                    "since": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC",
                }
                with suppress(OSError):
                    self._note.write_text(json.dumps(note), encoding="utf-8")
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                with suppress(OSError):
                    self._note.unlink()

    def _locked(self, waited: float) -> Locked:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            owner = Owner(**note["owner"])
            # A process that was killed leaves its note, which the next one may have been unable to replace.
            who = "" if owner.has_ended() else f"{owner}, since {note['since']}"
        except (OSError, ValueError, TypeError, KeyError):
            who = ""
        return Locked(
            f"{self._what}: {who or 'another process'} is changing it and hasn't finished within {waited:g} s. Try "
            f"again; if that process hangs, end it; if there is none any more on any computer, remove {self._path}"
        )
