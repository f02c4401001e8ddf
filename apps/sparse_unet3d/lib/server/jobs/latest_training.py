"""What all servers of a models folder know of its latest training, and the lock that lets only one run."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from lib.core.files import replacing, write_json
from lib.core.model.folder import ModelFolder
from lib.core.owner import Owner
from lib.core.processes import is_used

SILENCE_HERE, SILENCE_ELSEWHERE = 30.0, 120.0
"""Seconds without a sign of life after which a training counts as ended, where its process alone doesn't tell.

Files on a network file system may look a minute older than they are.
"""

WORDLESS = (
    "training has ended without a word: its process was killed, or the computer was switched off. Train goes on from "
    "the last checkpoint"
)


def now_text() -> str:
    """Return the local time as MONAI Label writes it: ``2026-11-29 15:04:05``."""
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Training:
    """A training, as its record tells.

    Attributes:
        id: of the job.
        request: what the client asked for.
        owner: the process that trains.
        start_ts, end_ts: local times; ``end_ts`` is empty before the end.
        status: ``RUNNING``, ``DONE``, ``STOPPED`` or ``ERROR``.
        message: why it failed, else empty.
    """

    id: str
    request: Mapping[str, Any]
    owner: Owner
    start_ts: str = field(default_factory=now_text)
    end_ts: str = ""
    status: str = "RUNNING"
    message: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Training":
        """Read what ``asdict`` made.

        Raises:
            KeyError, TypeError: a field is missing, or unknown.
        """
        return cls(**{**content, "owner": Owner(**content["owner"])})

    def ended(self, status: str, message: str = "") -> "Training":
        """Return the same after its end."""
        return replace(self, status=status, message=message, end_ts=now_text())


class LatestTraining:
    """The record of a folder's latest training: whoever starts one holds the folder's lock and writes it.

    =================  =================================================================================
    ``training.json``  the record; its owner touches it every second, which is its sign of life elsewhere
    ``training.log``   what the training says
    ``training.stop``  the id of the training that is asked to stop
    =================  =================================================================================
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self.path = folder.path / "training.json"
        self.log = folder.path / "training.log"
        self._stop = folder.path / "training.stop"

    def read(self) -> Training | None:
        """Return the latest training, which may still run; None if there has been none."""
        training = self._recorded()
        if training and training.status == "RUNNING" and not self._is_alive(training.owner):
            return replace(training, status="ERROR", message=WORDLESS)
        return training

    def running(self) -> Training | None:
        """Return the training that holds the folder now, if any."""
        training = self.read()
        return training if training and training.status == "RUNNING" else None

    def describe(self, training: Training) -> str:
        """Say who holds the folder, for somebody who may not start another training."""
        client = training.request.get("client_id")
        by = f" by {client!r}" if client else ""
        text = f"training runs already: started {training.start_ts}{by}, {training.owner}; stop it, or wait for its end"
        if not training.owner.is_here():
            text += (
                f". It gave a sign of life {self.silence():.0f} s ago; without another one it counts as ended "
                f"{SILENCE_ELSEWHERE:.0f} s after that"
            )
        return text

    def begin(self, training: Training) -> None:
        """Make a training the latest one. The caller holds the folder's lock, and has seen that none runs."""
        self._stop.unlink(missing_ok=True)
        write_json(self.path, asdict(training))

    def end(self, training_id: str, status: str, message: str = "") -> None:
        """Record how a training has ended, unless that is known, or another one has begun."""
        with self.folder.locked():
            training = self._recorded()
            if training and training.id == training_id and training.status == "RUNNING":
                write_json(self.path, asdict(training.ended(status, message)))

    def is_latest(self, training_id: str) -> bool:
        """Tell whether a training still holds the folder."""
        training = self._recorded()
        return training is not None and training.id == training_id

    def give_sign(self) -> None:
        """Tell servers on other computers that the training goes on."""
        os.utime(self.path)

    def silence(self) -> float:
        """Return the seconds since the last sign of life, by the clock of the computer that has the folder."""
        lock = self.folder.path / ".lock"
        try:
            os.utime(lock)
            now = lock.stat().st_mtime
        except OSError:
            now = time.time()
        try:
            return now - self.path.stat().st_mtime
        except OSError:
            return 0.0

    def ask_to_stop(self, training_id: str) -> None:
        """Ask a training on any computer to save and end."""
        with replacing(self._stop) as beside:
            beside.write_text(training_id, encoding="utf-8")

    def is_asked_to_stop(self, training_id: str) -> bool:
        try:
            return self._stop.read_text(encoding="utf-8") == training_id
        except OSError:
            return False

    def last_lines(self, most: int) -> list[str]:
        """Return the last lines that the latest training said."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 2**14))
                return file.read().decode(errors="replace").splitlines()[-most:]
        except OSError:
            return []

    def _is_alive(self, owner: Owner) -> bool:
        ended = owner.has_ended()
        if ended is None:
            return self.silence() < SILENCE_ELSEWHERE
        # After the clock was set, the start of the same process looks different.
        return not ended or (is_used(owner.pid) and self.silence() < SILENCE_HERE)

    def _recorded(self) -> Training | None:
        """Return the latest training as its record says; None without a record that can be read."""
        try:
            # Opening makes a network file system ask its server what is there now.
            return Training.from_json(json.loads(self.path.read_text(encoding="utf-8")))
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None
