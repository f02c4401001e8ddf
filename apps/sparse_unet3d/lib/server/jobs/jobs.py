"""Starts, shows and stops what runs in processes of its own; nothing waits in a queue."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from lib.core.errors import InputError
from lib.core.model.folder import ModelFolder
from lib.core.owner import Owner
from lib.server.stopping import is_stopping

from .devices import device_environment, training_processes
from .job import LINES, Job, JobState
from .killing import kill_with_children
from .latest_training import LatestTraining, Training
from .process import METHODS
from .watch import STOP_SECONDS

REMEMBERED = 50
"""Jobs of each kind that clients can ask about."""


class Busy(Exception):
    """A job can't start now, because another one runs. The message says which, for people."""


class Jobs:
    """The jobs of a server; a training belongs to the models folder, whichever server has started it."""

    def __init__(
        self,
        folder: ModelFolder,
        check: Callable[[str, dict[str, Any]], Mapping[str, object]],
        count_processes: Callable[[Mapping[str, str]], int] = training_processes,
    ) -> None:
        """Start nothing yet.

        Args:
            folder: of the project's models.
            check: called with method and request before a job starts; refuses one that can't succeed, and returns
                what the client should know.
            count_processes: returns how many processes train together, from the environment variables of the job.
        """
        self.folder, self.check, self.count_processes = folder, check, count_processes
        self.latest = LatestTraining(folder)
        self._jobs: dict[str, deque[Job]] = {method: deque(maxlen=REMEMBERED) for method in METHODS}
        self._starting = threading.Lock()

    def start(self, method: str, request: Mapping[str, Any]) -> JobState:
        """Start a job at once.

        Args:
            method: one of ``METHODS``.
            request: what a client asks for.

        Raises:
            InputError: the request can't succeed.
            Busy: a job of this kind runs already.
            OSError: the process can't be started, or a training not be recorded.
        """
        known = self.check(method, dict(request))
        environment = device_environment(request)
        with self._starting:
            if is_stopping():
                # Nobody would stop that job.
                raise Busy("the server is ending; start it again, and try again then")
            start = self._start_training if method == "train" else self._start_other
            job = start(method, request, environment)
        state = job.state()
        if known:
            state["check"] = known
        return state

    def status(self, method: str) -> JobState | None:
        """Return the state of the latest job; None if there has been none."""
        states = self.all(method)
        return states[-1] if states else None

    def all(self, method: str) -> list[JobState]:
        """Return the states of the jobs that are remembered, the latest one last."""
        states = [job.state() for job in list(self._jobs[method])]
        other = self._training_of_another_server() if method == "train" else None
        return [*states, self._state_of(other)] if other else states

    def running(self, method: str) -> JobState | None:
        """Return the state of the job that runs, if one does."""
        state = self.status(method)
        return state if state and state["status"] == "RUNNING" else None

    def stop(self, method: str) -> JobState | None:
        """Stop the job that runs, and wait until it has ended; return its state, or None if none runs.

        A job has time to save and tidy up; then it is killed. A training on another computer can only be asked.
        """
        for job in self._own_running(method):
            return self._stop_own(job)
        other = self._training_of_another_server() if method == "train" else None
        return self._stop_other(other) if other and other.status == "RUNNING" else None

    def stop_own(self) -> None:
        """Stop all jobs of this server, because it ends."""
        with self._starting:
            running = [job for method in METHODS for job in self._own_running(method)]
        stoppers = [threading.Thread(target=self._stop_own, args=(job,)) for job in running]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    def _start_other(self, method: str, request: Mapping[str, Any], environment: Mapping[str, str]) -> Job:
        if self._own_running(method):
            raise Busy(f"{METHODS[method]} runs already; stop it, or wait for its end")
        job = Job(method, request, environment)
        self._jobs[method].append(job)
        job.begin(self.folder.path, 1, lambda: False, lambda _: None)
        return job

    def _start_training(self, method: str, request: Mapping[str, Any], environment: Mapping[str, str]) -> Job:
        with self.folder.locked():
            if holder := self.latest.running():
                raise Busy(self.latest.describe(holder))
            job = Job(method, request, environment)
            # Known before it is recorded, or it would look like another server's.
            self._jobs[method].append(job)
            try:
                self.latest.begin(Training(job.id, job.request, Owner.of(job.pid), job.start_ts))
            except BaseException:
                self._jobs[method].remove(job)
                job.kill()
                raise
        count = self.count_processes(environment)
        job.begin(self.folder.path, count, lambda: self.latest.is_asked_to_stop(job.id), self._record_end)
        return job

    def _record_end(self, job: Job) -> None:
        """Record how a training has ended that had no time to do so itself."""
        state = job.state()
        try:
            self.latest.end(job.id, state["status"], state.get("message", ""))
        except (InputError, OSError):
            # Other servers see that its process has ended.
            return

    def _stop_own(self, job: Job) -> JobState:
        job.was_asked_to_stop = True
        if job.method != "train" or not self._ask(job.id):
            job.terminate()
        job.wait(STOP_SECONDS)
        job.kill()
        job.wait(STOP_SECONDS)
        return job.state()

    def _own_running(self, method: str) -> list[Job]:
        return [job for job in list(self._jobs[method]) if job.is_running()]

    def _training_of_another_server(self) -> Training | None:
        """Return the latest training, unless it is one of this server."""
        training = self.latest.read()
        return training if training and all(job.id != training.id for job in list(self._jobs["train"])) else None

    def _state_of(self, training: Training) -> JobState:
        lines = [f"[{training.start_ts}] {training.owner} has been started", *self.latest.last_lines(LINES)]
        state: JobState = {
            "id": training.id,
            "status": training.status,
            "request": training.request,
            "start_ts": training.start_ts,
            "details": [*lines, *([training.message] if training.message else [])][-LINES:],
        }
        if training.end_ts:
            state["end_ts"] = training.end_ts
        if training.message:
            state["message"] = training.message
        return state

    def _stop_other(self, training: Training) -> JobState:
        if self._ask(training.id):
            end = time.monotonic() + STOP_SECONDS
            while time.monotonic() < end and self._still_runs(training):
                time.sleep(0.2)
        if self._still_runs(training) and (process := training.owner.running()):
            kill_with_children(process)
            while self._still_runs(training):
                time.sleep(0.2)
            self.latest.end(training.id, "STOPPED")
        return self._state_of(self.latest.read() or training)

    def _still_runs(self, training: Training) -> bool:
        if training.owner.is_here():
            return training.owner.running() is not None
        running = self.latest.running()
        return running is not None and running.id == training.id

    def _ask(self, training_id: str) -> bool:
        """Ask a training to save and end; tell whether that could be written down."""
        try:
            self.latest.ask_to_stop(training_id)
        except OSError:
            return False
        return True
