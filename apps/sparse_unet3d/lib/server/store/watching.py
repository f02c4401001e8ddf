"""Notices when others add, change or remove files in the studies folder."""

import logging
import os
import sys
from collections.abc import Callable, Collection

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from lib.core.files import WRITING
from lib.core.locking import Locked
from lib.core.volumes.image_files import OWN, is_listed

logger = logging.getLogger(__name__)


def watch_folder(
    folder: str, index: Collection[str], on_mount: bool, reload: Callable[[], None], refresh: Callable[[], None]
) -> BaseObserver:
    """Watch a folder from now on.

    Args:
        folder: the folder, with its subfolders.
        index: file names of the datastore's index.
        on_mount: whether the folder is on a mounted file system, such as a network drive.
        reload: called when the index was written.
        refresh: called when an image or label was written, renamed or removed.
    """
    # The system reports no changes that another machine makes on a mounted folder.
    observer = PollingObserver() if on_mount else Observer()
    observer.schedule(
        _Watcher(folder, index, reload, refresh, sys.platform == "linux" and not on_mount), folder, recursive=True
    )
    try:
        observer.start()
    except OSError as error:
        logger.error("Images added to %s will be seen only after a restart: %s", folder, error)
    return observer


class _Watcher(FileSystemEventHandler):
    """Calls back when files change, and goes on after any error."""

    def __init__(
        self,
        folder: str,
        index: Collection[str],
        reload: Callable[[], None],
        refresh: Callable[[], None],
        reports_closing: bool,
    ) -> None:
        """Take the arguments of ``watch_folder``, and whether the system reports the end of writing."""
        self.folder = os.path.realpath(folder)
        self.index, self.reload, self.refresh = index, reload, refresh
        # Elsewhere, each event of writing counts.
        self.kinds = ("created", "deleted", "moved", "closed" if reports_closing else "modified")

    def on_any_event(self, event: FileSystemEvent) -> None:
        names = [os.path.basename(str(path)) for path in (event.src_path, event.dest_path) if path]
        try:
            if any(name in self.index for name in names) and event.event_type in ("created", "modified", "moved"):
                _patiently(self.reload)
            # This software renames what it writes into place and then writes the index, so the event of the index is
            # enough for its own files.
            elif event.event_type in self.kinds and (
                (not names[0].startswith(WRITING) and any(map(is_listed, names)))
                or any(self._may_be_dicom(str(path)) for path in (event.src_path, event.dest_path) if path)
            ):
                _patiently(self.refresh)
        except Exception:
            logger.exception("Could not handle a changed file: %s", event)

    def _may_be_dicom(self, path: str) -> bool:
        """Tell whether a path may be a folder of DICOM files, or a file in one."""
        folder, *file = os.path.relpath(os.path.realpath(path), self.folder).split(os.sep)
        is_other = folder in OWN or folder.startswith(".") or os.path.splitext(folder)[1][1:].isalpha()
        return not is_other and len(file) <= 1 and not any(name.startswith(".") for name in file)


def _patiently(call: Callable[[], None]) -> None:
    """Call until nobody else holds the lock, because no later event may come."""
    while True:
        try:
            call()
            return
        except Locked as error:
            logger.warning(error)
