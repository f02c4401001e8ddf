"""Lets long work end when its process is asked to."""

import threading

from lib.core.errors import Stopped

_asked = threading.Event()


def raise_if_stopping() -> None:
    """End long work if the process is to end; long work calls this again and again.

    Raises:
        Stopped: the process is to end.
    """
    if _asked.is_set():
        raise Stopped("the work was stopped, since its process is to end")


def is_stopping() -> bool:
    """Tell whether the process is to end."""
    return _asked.is_set()


def stop() -> bool:
    """End all long work of this process; tell whether that is news."""
    news = not _asked.is_set()
    _asked.set()
    return news
