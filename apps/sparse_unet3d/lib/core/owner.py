"""The process that holds something, as a file names it to other processes and to people."""

import socket
from dataclasses import dataclass

import psutil

from .processes import has_ended, is_here, name_of


@dataclass(frozen=True)
class Owner:
    """A process on some computer.

    Attributes:
        process: its name, see ``name_of``, with where it runs and the time of its start.
        host: name of the computer.
        pid: its number.
    """

    process: str
    host: str
    pid: int

    @classmethod
    def of(cls, pid: int) -> "Owner":
        """Describe a process of this computer.

        Raises:
            psutil.NoSuchProcess: it has ended.
        """
        return cls(name_of(pid), socket.gethostname(), pid)

    def is_here(self) -> bool:
        """Tell whether the process is one of this computer, and of this container."""
        return is_here(self.process)

    def has_ended(self) -> bool | None:
        """Tell whether the process has ended; None if nobody here knows."""
        return has_ended(self.process)

    def running(self) -> psutil.Process | None:
        """Return the process if it runs on this computer."""
        try:
            return psutil.Process(self.pid) if self.has_ended() is False else None
        except psutil.NoSuchProcess:
            return None

    def __str__(self) -> str:
        """Name the process to a person."""
        return f"process {self.pid} on {self.host}"
