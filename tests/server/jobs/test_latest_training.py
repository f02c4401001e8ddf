"""Who holds a models folder, as other servers see it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from lib.core.model.folder import ModelFolder
from lib.core.owner import Owner
from lib.core.processes import this_process
from lib.server.jobs.killing import kill_with_children
from lib.server.jobs.latest_training import LatestTraining, Training
from serving import wait_until

SLEEPER = "import time; time.sleep(1000)"


@pytest.fixture
def latest(tmp_path: Path) -> LatestTraining:
    return LatestTraining(ModelFolder(tmp_path / "models"))


@pytest.fixture
def sleeping() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield process
    process.kill()
    process.wait()


def begin(latest: LatestTraining, pid: int, silence: float = 0.0, **changes: Any) -> Training:
    """Record a training of a process that gave its last sign of life some seconds ago."""
    training = Training("an id", {"client_id": "anna"}, replace(Owner.of(pid), **changes))
    latest.begin(training)
    os.utime(latest.path, (time.time() - silence,) * 2)
    return training


def test_nothing_runs_where_nothing_was_recorded(latest: LatestTraining) -> None:
    assert latest.read() is latest.running() is None
    latest.folder.path.mkdir()
    for content in ("", "[]", "{}", '{"id": "cut sh', "null", '{"id": "x", "owner": 1}'):
        latest.path.write_text(content)
        assert latest.read() is None


def test_a_training_holds_the_folder_as_long_as_its_process_runs(
    latest: LatestTraining, sleeping: "subprocess.Popen[bytes]"
) -> None:
    # However long it is silent: it may have been suspended.
    training = begin(latest, sleeping.pid, silence=10_000)
    assert latest.running() == training
    assert latest.describe(training).startswith(f"training runs already: started {training.start_ts} by 'anna', ")
    assert f"process {sleeping.pid} on " in latest.describe(training)
    sleeping.kill()
    # At first it is a zombie, because nobody has waited for it.
    wait_until(lambda: latest.running() is None)
    sleeping.wait()
    assert latest.running() is None
    ended = latest.read()
    assert ended
    assert (ended.id, ended.status) == (training.id, "ERROR")
    assert "without a word" in ended.message


@pytest.mark.parametrize(("silence", "runs"), [(0, True), (20, True), (40, False)])
def test_another_process_of_the_same_number_holds_nothing(latest: LatestTraining, silence: float, runs: bool) -> None:
    """Unless there are signs of life: then the clock was set, and the start looks different."""
    name, _, started = this_process().rpartition("-")
    begin(latest, os.getpid(), silence, process=f"{name}-{int(started) - 1000}")
    assert (latest.running() is not None) is runs


@pytest.mark.parametrize(("silence", "runs"), [(0, True), (100, True), (150, False)])
def test_elsewhere_only_signs_of_life_tell(latest: LatestTraining, silence: float, runs: bool) -> None:
    # The number is of a process that runs here, which tells nothing.
    elsewhere = f"{0:08x}{this_process()[8:]}"
    training = begin(latest, os.getpid(), silence, process=elsewhere)
    assert (latest.running() is not None) is runs
    if runs:
        assert f"on {training.owner.host}; stop it" in latest.describe(training)
        assert f"sign of life {silence} s ago" in latest.describe(training)
        # Nothing is killed here.
        assert training.owner.running() is None


def test_the_end_is_recorded_once_and_only_of_the_latest(latest: LatestTraining) -> None:
    training = begin(latest, os.getpid())
    latest.end("another id", "ERROR", "of another one")
    assert latest.running() == training
    latest.end(training.id, "STOPPED")
    latest.end(training.id, "ERROR", "too late")
    ended = latest.read()
    assert ended
    assert (ended.status, ended.message) == ("STOPPED", "")
    assert ended.end_ts >= ended.start_ts


def test_the_next_training_is_not_asked_to_stop(latest: LatestTraining) -> None:
    training = begin(latest, os.getpid())
    assert not latest.is_asked_to_stop(training.id)
    latest.ask_to_stop(training.id)
    assert latest.is_asked_to_stop(training.id)
    assert not latest.is_asked_to_stop("the next one")
    begin(latest, os.getpid())
    assert not latest.is_asked_to_stop(training.id)


def test_a_process_is_killed_with_all_that_it_started() -> None:
    nested = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEPER!r}]).wait()"
    process = subprocess.Popen([sys.executable, "-c", nested])
    own = psutil.Process(process.pid)
    while not own.children():
        time.sleep(0.05)
    (child,) = own.children()
    kill_with_children(own)
    process.wait()
    child.wait(60)
    kill_with_children(own)


def race(folder: str, started: str) -> None:
    latest = LatestTraining(ModelFolder(folder))
    while not Path(started).exists():
        time.sleep(0.001)
    with latest.folder.locked():
        if latest.running():
            sys.exit(3)
        latest.begin(Training(str(os.getpid()), {}, Owner.of(os.getpid())))
    time.sleep(1000)


def test_of_several_that_begin_at_once_one_does(latest: LatestTraining, tmp_path: Path) -> None:
    code = f"from test_latest_training import race; race({str(latest.folder.path)!r}, {str(tmp_path / 'started')!r})"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    racers = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}) for _ in range(4)]
    (tmp_path / "started").touch()
    while sum(racer.poll() is None for racer in racers) > 1:
        time.sleep(0.05)
    (winner,) = [racer for racer in racers if racer.poll() is None]
    assert [racer.returncode for racer in racers if racer is not winner] == [3, 3, 3]
    running = latest.running()
    assert running
    assert running.id == str(winner.pid)
    winner.kill()
    winner.wait()
    assert latest.running() is None
