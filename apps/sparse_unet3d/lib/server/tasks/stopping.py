"""Ends the server soon after Ctrl-C or SIGTERM, even during long work."""

import logging
import os
import signal
import threading
import time
from types import FrameType

import psutil

from lib.server.temporary import remove_own_folder

logger = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that requests have to end by themselves. Files are renamed into place, so none is left half written."""

_stopping = threading.Event()


class Stopped(Exception):
    """The work ended because the server is being stopped."""


def raise_if_stopping() -> None:
    """End long work if the server is being stopped; long work calls this repeatedly.

    Raises:
        Stopped: the server is being stopped.
    """
    if _stopping.is_set():
        raise Stopped("the server is being stopped")


def end_on_signals() -> None:
    """Make Ctrl-C and SIGTERM end running work, for which the web server would otherwise wait.

    The earlier signal handlers still run. Only the main thread may call this.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        earlier = signal.getsignal(number)

        def stop(received: int, frame: FrameType | None, earlier: object = earlier) -> None:
            if not _stopping.is_set():
                _stopping.set()
                threading.Thread(target=_end, args=(received,), daemon=True).start()
            if callable(earlier):
                earlier(received, frame)

        signal.signal(number, stop)


def _end(received: int) -> None:
    """End the training processes, and this process if it doesn't end by itself."""
    _kill_children()
    time.sleep(GRACE)
    logger.warning("Ending although requests are still running")
    _kill_children()
    remove_own_folder()
    os._exit(128 + received)


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
