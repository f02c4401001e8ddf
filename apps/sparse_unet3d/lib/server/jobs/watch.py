"""Ends a job's process when its server has ended, or somebody has asked for that: no process is left over."""

import logging
import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType

import psutil

from lib.core.orphan import is_orphan
from lib.server.stopping import stop

from .latest_training import LatestTraining

logger = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""How long a job has to save and end, before it is ended by force. Files are renamed into place, so none is torn."""


class Watch:
    """Looks after a job's process, beside its work.

    It can't rely on signals: Windows has none of those that ask a process to end, and who is killed sends none.
    """

    def __init__(self, server: int | None, training: tuple[LatestTraining, str] | None) -> None:
        """Begin to watch. Only the main thread may call this.

        Args:
            server: number of the server's process, which started this one; None for work that a person started.
            training: the record of this training, and its id; None for another job.
        """
        self.training = training
        self._number, self._server = server, None
        if server is not None:
            with suppress(psutil.NoSuchProcess):
                self._server = psutil.Process(server)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._watch, daemon=True).start()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._end(f"received {signal.Signals(number).name}")

    def _watch(self) -> None:
        while not (reason := self._reason_to_end()):
            time.sleep(1)
        self._end(reason)

    def _reason_to_end(self) -> str:
        if self._number is not None and (
            self._server is None or not self._server.is_running() or is_orphan(self._number)
        ):
            return "the server has ended"
        if self.training:
            latest, training_id = self.training
            try:
                if latest.is_asked_to_stop(training_id):
                    return "asked to stop"
                if not latest.is_latest(training_id):
                    return "another training has taken over"
                latest.give_sign()
            except OSError:
                # The network is away for a moment: the training goes on, without a sign of life.
                return ""
        return ""

    def _end(self, reason: str) -> None:
        if stop():
            logger.info("Ending: %s", reason)
            # The interpreter doesn't wait for this thread.
            threading.Thread(target=_end_by_force, daemon=True).start()


def _end_by_force() -> None:
    time.sleep(STOP_SECONDS)
    os._exit(1)
