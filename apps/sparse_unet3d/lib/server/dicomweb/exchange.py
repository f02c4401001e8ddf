"""Exchanges annotations with the archive in a thread, again and again, whatever happens to the archive meanwhile."""

import logging
import threading
import time

from lib.core.errors import InputError, Stopped
from lib.server.stopping import is_stopping

from .archived_store import ArchivedStore
from .errors import ArchiveError, Refused
from .segmentations import MAKER, image_of

logger = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two rounds, and at least between two listings of the archive's images."""

FIRST_WAIT, LONGEST_WAIT = 5.0, 300.0
"""Seconds until the next try after the archive couldn't be reached; each wait is twice as long as the one before."""

PATIENCE = 10.0
"""Seconds for which the reply to a submission waits for the archive."""


class Exchange:
    """Sends versions that the archive lacks, lists its images, and brings back annotations that the project lacks.

    What is to be sent follows from the files in the project folder, so that nothing is lost when the process is killed.
    """

    def __init__(self, store: ArchivedStore) -> None:
        """Exchange what ``store`` has and its archive."""
        self._store = store
        self._wanted = threading.Event()
        self._tried = threading.Condition()
        self._failures: dict[tuple[str, int], str] = {}
        self._fault = ""
        self._listed_at: float | None = None
        self._recovered_at: float | None = None
        self._seen: set[str] = set()
        self._thread: threading.Thread | None = None
        self._is_ended = False

    # What others ask for

    def start(self) -> None:
        """Begin. The thread ends by ``end``, or with the process, at any moment."""
        self._thread = threading.Thread(target=self._work, name="archive", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End after the request that is going on."""
        self._is_ended = True
        self._wanted.set()
        if self._thread:
            self._thread.join()

    def hurry(self, image_id: str, version: int) -> list[str]:
        """Send a new version soon; say what is wrong if the archive doesn't have it within ``PATIENCE``."""
        self._wanted.set()
        key = image_id, version

        def is_tried() -> bool:
            return self._is_delivered(key) or key in self._failures

        with self._tried:
            self._tried.wait_for(is_tried, PATIENCE)
            if self._is_delivered(key):
                return []
            why = self._failures.get(key, f"{self._store.archive.address}: hasn't answered yet")
        return [f"version {version} is stored here, but not in the archive yet; it is sent again by itself. {why}"]

    def _is_delivered(self, key: tuple[str, int]) -> bool:
        image_id, version = key
        return version in (self._store.delivered.of(image_id) or ())

    def is_reachable(self) -> bool:
        """Tell whether the archive did what it was asked for last."""
        return not self._fault

    def describe(self) -> str:
        """Say which archive it is, and what is wrong with it."""
        waiting = len(self._store.undelivered())
        return (
            f"images come from {self._store.archive.address}"
            + (f", which doesn't have {waiting} version{'' if waiting == 1 else 's'} yet" if waiting else "")
            + (f" ({self._fault})" if self._fault else "")
        )

    def list_images(self) -> bool:
        """List the archive's images; tell whether there are new ones. A failure is in the log and in ``describe``."""
        listed = self._store.listed
        try:
            found = self._store.archive.series()
            # The folder counts: what was fetched stays an image of the project.
            here = {name: study for name, study in listed.series().items() if self._store.is_fetched(name)}
            is_new = listed.write(self._store.archive.address, here | found)
        except ArchiveError as error:
            self._note_fault(error)
            return False
        if self._fault:
            self._store.not_fetched.clear()
        self._listed_at, self._fault = time.monotonic(), ""
        return is_new

    # The thread

    def _work(self) -> None:
        wait = FIRST_WAIT
        while not (self._is_ended or is_stopping()):
            self._wanted.clear()
            try:
                self._round()
                pause, wait, self._fault = EVERY, FIRST_WAIT, ""
            except Stopped:
                return
            except (ArchiveError, OSError) as error:
                self._note_fault(error)
                pause, wait = wait, min(2 * wait, LONGEST_WAIT)
            except Exception:
                logger.exception("The exchange with the archive goes on later")
                pause = LONGEST_WAIT
            self._wanted.wait(pause)

    def _round(self) -> None:
        self._send()
        if self._listed_at is None or time.monotonic() - self._listed_at >= EVERY:
            if self.list_images():
                self._store.refresh()
            if self._fault:
                raise ArchiveError(self._fault)
        if self._recovered_at != self._listed_at:
            self._recover()
            self._recovered_at = self._listed_at

    def _send(self) -> None:
        """Send each version that the archive lacks; one that can't be sent doesn't hold up the others.

        Raises:
            ArchiveError: the archive can't be reached.
        """
        waiting = self._store.undelivered()
        for key in waiting:
            try:
                self._seen.add(self._store.deliver(*key))
                self._failures.pop(key, None)
                logger.info("Version %d of %s is in the archive", key[1], key[0])
            except (InputError, OSError) as error:
                is_down = isinstance(error, ArchiveError) and not isinstance(error, Refused)
                if is_down:
                    # Before ``hurry`` replies, so that whoever has read the reply sees the archive as unreachable.
                    self._note_fault(error)
                self._note_failures(waiting if is_down else [key], str(error))
                if is_down:
                    raise
            with self._tried:
                self._tried.notify_all()

    def _note_failures(self, keys: list[tuple[str, int]], why: str) -> None:
        with self._tried:
            for key in keys:
                if self._failures.get(key) != why:
                    logger.error("Version %d of %s isn't in the archive yet: %s", key[1], key[0], why)
                self._failures[key] = why
            self._tried.notify_all()

    def _recover(self) -> None:
        """Bring back the annotations of images for which the archive wasn't asked yet.

        Raises:
            ArchiveError: the archive can't be reached.
        """
        store = self._store
        studies = {study for name, study in store.listed.series().items() if store.delivered.of(name) is None}
        if not studies:
            return
        new = {
            series: study
            for series, study in store.archive.segmentations(MAKER).items()
            if study in studies and series not in self._seen
        }
        for series, study in new.items():
            for segmentation in store.archive.retrieve(study, series):
                name = image_of(segmentation)
                if name and name in store.listed.series() and store.delivered.of(name) is None:
                    self._recover_image(name)
            self._seen.add(series)
        for name in store.listed.series():
            if store.delivered.of(name) is None and store.is_fetched(name):
                self._recover_image(name)

    def _recover_image(self, name: str) -> None:
        try:
            self._store.recover(name)
        except (InputError, OSError) as error:
            if isinstance(error, ArchiveError) and not isinstance(error, Refused):
                raise
            logger.error("%s: its annotations can't be brought back from the archive: %s", name, error)

    def _note_fault(self, error: Exception) -> None:
        if str(error) != self._fault:
            logger.error("The project folder is served, and the archive is asked again later. %s", error)
        self._fault = str(error)
