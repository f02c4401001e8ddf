"""A training job by two processes, on the processor."""

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.server.jobs.jobs import Jobs
from lib.server.store.datastore import AnnotationStore
from project import APP
from serving import NAMED, is_alive, paint, running, wait_until, write_label

pytestmark = pytest.mark.slow

ENDLESS = {"model": "sparse_unet3d", "max_epochs": 100_000}


@pytest.fixture
def jobs(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """Jobs of a folder with an annotation, whose trainings are done by two processes."""
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    monkeypatch.setenv("MONAI_LABEL_APP_DIR", str(APP))
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(studies))
    monkeypatch.setenv("MONAI_LABEL_APP_CONF", json.dumps({"width": "2"}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jobs = Jobs(ModelFolder(studies / "models"), lambda *_: {}, lambda _: 2)
    yield jobs
    jobs.stop_own()


def begun(jobs: Jobs) -> tuple[psutil.Process, psutil.Process]:
    """Start a training, and wait for its first epoch; return its processes."""
    jobs.start("train", ENDLESS)
    (first,) = running(psutil.Process().children(), "lib.server.jobs.process")

    def epochs() -> int:
        state = jobs.status("train")
        assert state
        assert state["status"] == "RUNNING", state
        path = jobs.folder.stats_path
        return int(json.loads(path.read_text())["epoch"]) if path.exists() else 0

    wait_until(lambda: epochs() >= 1)
    (second,) = running(first.children(), "lib.server.jobs.ranks")
    return first, second


def test_two_processes_train_together_and_are_stopped(jobs: Jobs) -> None:
    first, second = begun(jobs)
    ports = {connection.laddr.port for connection in first.net_connections() if connection.laddr}
    assert any(c.raddr and c.raddr.port in ports for c in second.net_connections() if c.status == "ESTABLISHED")
    state = jobs.stop("train")
    assert state
    assert state["status"] == "STOPPED"
    assert not is_alive(first)
    wait_until(lambda: not is_alive(second))
    assert (jobs.folder.path / "checkpoint.pt").exists()


def test_when_one_of_them_is_killed_the_training_fails_and_one_process_goes_on(jobs: Jobs) -> None:
    first, second = begun(jobs)
    second.kill()
    wait_until(lambda: jobs.running("train") is None)
    state = jobs.status("train")
    assert state
    assert state["status"] == "ERROR"
    assert "training has failed" in state["message"]
    assert not is_alive(first)
    jobs.count_processes = lambda _: 1
    jobs.start("train", {"model": "sparse_unet3d", "max_epochs": 1})
    wait_until(lambda: jobs.running("train") is None)
    state = jobs.status("train")
    assert state
    assert state["status"] == "DONE", state
