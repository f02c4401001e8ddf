"""A job: a process of its own, started by this server, and what is known of it."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypedDict

import psutil

from .killing import kill_with_children
from .latest_training import now_text
from .process import Order

LINES = 20
"""How many of the last lines that a job said are told to clients."""

PROGRAM = Path(__file__).parents[3] / "child.py"
APP = PROGRAM.parent


class JobState(TypedDict, total=False):
    """What clients are told of a job, as by MONAI Label.

    Attributes:
        id: of the job.
        status: ``RUNNING``, ``DONE``, ``STOPPED`` or ``ERROR``.
        request: what a client asked for.
        start_ts, end_ts: local times, ``2026-11-29 15:04:05``; ``end_ts`` only after the end.
        details: the last lines that it said; of one that has failed, the last line says why.
        message: the same reason alone.
        result: what it found, if it is done.
        check: what the client should know from the beginning.
    """

    id: str
    status: str
    request: Mapping[str, Any]
    start_ts: str
    end_ts: str
    details: list[str]
    message: str
    result: Any
    check: Mapping[str, object]


class Job:
    """A job of this server."""

    def __init__(self, method: str, request: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        """Start the process; it waits for ``begin``.

        Args:
            method: ``train``, ``scoring`` or ``batch_infer``.
            request: for the app's method of that name.
            environment: variables that differ from those of the server.

        Raises:
            OSError: the process can't be started.
        """
        self.id, self.method, self.request = str(uuid.uuid4()), method, dict(request)
        self.start_ts = now_text()
        self.was_asked_to_stop = False
        # Its arguments, environment and working folder hold nothing that a client sent.
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "lib.server.jobs.process", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={
                **os.environ,
                "PYTHONPATH": str(APP),
                "PYTHONIOENCODING": "utf-8:backslashreplace",
                "PYTHONUNBUFFERED": "1",
                # Otherwise MONAI Label imports "lib" again, and the app never learns that its process is to end.
                "MONAI_LABEL_RELOAD_APP_LIB": "false",
                **environment,
            },
        )
        self.pid = self._process.pid
        self._lines = deque([f"[{self.start_ts}] process {self.pid} has been started"], maxlen=LINES)
        self._end: JobState = {}
        self._ended = threading.Event()

    def begin(
        self, models: Path, processes: int, was_stopped: Callable[[], bool], at_end: Callable[["Job"], None]
    ) -> None:
        """Let the process work.

        Args:
            models: folder of the project's models.
            processes: how many processes train, with this one.
            was_stopped: tells whether another server has stopped it.
            at_end: called once the process has ended.
        """
        order = Order(
            id=self.id,
            method=self.method,
            request=self.request,
            server=os.getpid(),
            models=str(models),
            processes=processes,
        )
        threading.Thread(target=self._attend, args=(json.dumps(order), was_stopped, at_end), daemon=True).start()

    def is_running(self) -> bool:
        return not self._ended.is_set()

    def state(self) -> JobState:
        """Return what is known of the job."""
        end = self._end
        state: JobState = {
            "id": self.id,
            "status": "RUNNING",
            "request": self.request,
            "start_ts": self.start_ts,
            "details": list(self._lines),
            **end,
        }
        if message := end.get("message"):
            state["details"] = [*state["details"], message][-LINES:]
        return state

    def wait(self, seconds: float) -> bool:
        """Wait for the end; tell whether it has come."""
        return self._ended.wait(seconds)

    def terminate(self) -> None:
        """Ask the process to end; on Windows, end it."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process and all that it started, and wait for that."""
        # Once it has been waited for, its number may be that of another process.
        if self._process.poll() is None:
            kill_with_children(psutil.Process(self.pid))
            self._process.wait()

    def _attend(self, order: str, was_stopped: Callable[[], bool], at_end: Callable[["Job"], None]) -> None:
        """Hand over the order, read all that the process says, and note how it ends."""
        said: list[str] = []
        readers = [
            threading.Thread(target=self._read_log, daemon=True),
            threading.Thread(target=lambda: said.append(_rest(self._process.stdout)), daemon=True),
        ]
        for reader in readers:
            reader.start()
        assert self._process.stdin
        try:
            with self._process.stdin:
                self._process.stdin.write(order)
        except OSError:
            # It has ended already; its exit status says more.
            pass
        status = self._process.wait()
        for reader in readers:
            # What the process started may have its pipes still, and hang.
            reader.join(5)
        end = _parse_outcome("".join(said))
        if not end and (self.was_asked_to_stop or was_stopped()):
            end = {"status": "STOPPED"}
        elif not end:
            end = {"status": "ERROR", "message": f"the process has ended without a word, {_describe_exit(status)}"}
        end["end_ts"] = now_text()
        self._end = end
        at_end(self)
        self._ended.set()

    def _read_log(self) -> None:
        log = logging.getLogger(f"task_{self.method}")
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                if line := line.rstrip():
                    log.info(line)
                    self._lines.append(line)


def _parse_outcome(said: str) -> JobState:
    """Read an ``Outcome``; empty if the process had no time for a last word."""
    try:
        # JSON for clients knows no NaN.
        outcome = json.loads(said, parse_constant=lambda _: None)
        end: JobState = {"status": outcome["status"]}
        if outcome["message"]:
            end["message"] = outcome["message"]
        if outcome["result"] is not None:
            end["result"] = outcome["result"]
        return end
    except (KeyError, TypeError, ValueError):
        return {}


def _rest(file: IO[str] | None) -> str:
    assert file
    with file:
        return file.read()


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"with exit status {status}; the server's log may say more"
    name = signal.Signals(-status).name if -status in {number.value for number in signal.Signals} else str(-status)
    if name == "SIGKILL":
        return (
            "killed by the system (SIGKILL), which happens when memory is short; close other programs, or train with a "
            "smaller --conf width"
        )
    return f"killed by the signal {name}; the server's log may say more"
