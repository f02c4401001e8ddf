"""The server ends soon after Ctrl-C or SIGTERM, whatever it is at."""

import logging
import os
import signal
import threading
import time
from types import FrameType

import psutil

logger = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that requests have to end by themselves; files are renamed into place, and so are never half written."""

_stopping = threading.Event()


class Stopped(Exception):
    """The work is given up, as the server is being stopped."""


def go_on() -> None:
    """Let long work end where the server is being stopped; to be called again and again.

    Raises:
        Stopped: it is.
    """
    if _stopping.is_set():
        raise Stopped("the server is being stopped")


def end_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end running work, before what the web server does, which waits for it.

    The signals do the same as before besides. Only the main thread may call this.
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
    """End the processes that trainings run in, and this one if it doesn't by itself."""
    _kill_children()
    time.sleep(GRACE)
    logger.warning("Requests are still running; ending all the same")
    _kill_children()
    os._exit(128 + received)


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
