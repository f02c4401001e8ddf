"""Ends the server soon after Ctrl-C or SIGTERM, even during long work; no process of its jobs is left over."""

import logging
import os
import signal
import threading
import time
from types import FrameType

import psutil

from lib.server.stopping import stop
from lib.server.temporary import remove_own_folder

from .jobs import Jobs
from .killing import kill_with_children

logger = logging.getLogger(__name__)

GRACE = 3.0
"""Seconds that requests have to end by themselves. Files are renamed into place, so none is left half written."""


def end_on_signals(jobs: Jobs) -> None:
    """Make Ctrl-C and SIGTERM end running work, for which the web server would otherwise wait.

    Jobs end first, a training after it has saved; then the earlier signal handlers run. A second signal ends all at
    once. Only the main thread may call this.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        earlier = signal.getsignal(number)

        def end(received: int, _: FrameType | None, earlier: object = earlier) -> None:
            if stop():
                threading.Thread(target=_end, args=(jobs, received, earlier), daemon=True).start()
            else:
                _kill_children()

        signal.signal(number, end)


def _end(jobs: Jobs, received: int, earlier: object) -> None:
    """End the jobs and this process."""
    logger.info("Ending")
    jobs.stop_own()
    _kill_children()
    if callable(earlier):
        earlier(received, None)
    time.sleep(GRACE)
    logger.warning("Ending although requests are still running")
    _kill_children()
    remove_own_folder()
    os._exit(128 + received)


def _kill_children() -> None:
    for child in psutil.Process().children():
        kill_with_children(child)
