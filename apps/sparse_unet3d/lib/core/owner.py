"""The process that holds something, as a file names it to other processes and to people."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from .processes import has_ended, name_of


@dataclass(frozen=True)
class Owner:
    """A process on some computer.

    Attributes:
        process: its name, see ``name_of``, with the time of its start.
        host: name of the computer.
        space: within which process numbers are unique on it; containers have one each. Empty where there is only one.
        pid: its number.
    """

    process: str
    host: str
    space: str
    pid: int

    @classmethod
    def of(cls, pid: int) -> "Owner":
        """Describe a process of this computer.

        Raises:
            psutil.NoSuchProcess: it has ended.
        """
        return cls(name_of(pid), socket.gethostname(), _process_space(), pid)

    def is_here(self) -> bool:
        """Tell whether the process is one of this computer, and of this container."""
        return (self.host, self.space) == (socket.gethostname(), _process_space())

    def has_ended(self) -> bool | None:
        """Tell whether the process has ended; None if nobody here knows."""
        return has_ended(self.process) if self.is_here() else None

    def running(self) -> psutil.Process | None:
        """Return the process if it runs on this computer."""
        try:
            return psutil.Process(self.pid) if self.has_ended() is False else None
        except psutil.NoSuchProcess:
            return None

    def __str__(self) -> str:
        """Name the process to a person."""
        return f"process {self.pid} on {self.host}"


def _process_space() -> str:
    """Return what Linux calls the processes' namespace."""
    try:
        return os.readlink(Path("/proc/self/ns/pid"))
    except OSError:
        return ""
