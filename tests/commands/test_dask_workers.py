"""Volumes and boxes that the workers of a real dask scheduler segment, and what is lost when these are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config as dask_config
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from dask_cluster import start
from lib.commands import dask_workers
from lib.commands.dask_workers import DaskWorkers, connected
from lib.commands.segment import plan_tasks, segment_all
from lib.core.errors import InputError
from lib.core.inference import large
from lib.core.labels import LabelScheme
from lib.core.parallel import Crashed, Processes, WorkersLost
from ome_zarr_files import save
from project import APP
from serving import PATIENCE, publish, snapshot, wait_until, write_image

pytestmark = pytest.mark.slow

SIDES, BOXES = (640, 64, 8), 5
"""Of an OME-Zarr image, and how many chunks its label image has."""


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        dask_config.set({"distributed.comm.timeouts.connect": f"{PATIENCE}s"}),
    ):
        patch.setattr(dask_workers, "TIMEOUT", PATIENCE)
        yield


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[LocalCluster]:
    with start(workers=2) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: LocalCluster) -> LocalCluster:
    """A scheduler with two workers; those that a test has killed are there again."""
    shared_cluster.scale(2)
    with Client(shared_cluster.scheduler_address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
    return shared_cluster


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model."""
    torch.manual_seed(3)
    publish(tmp_path / "project/models", LabelScheme(("inside", "tubule"), "outside"))
    return tmp_path / "project"


@pytest.fixture
def zarr_image(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An OME-Zarr image that is segmented in ``BOXES`` boxes. Its intensities rise from one end to the other."""
    pytest.importorskip("zarr", reason="zarr needs Python 3.11")
    monkeypatch.setattr(large, "MOST", 128 * 64 * 8)
    random = np.random.default_rng(6)
    array = (random.integers(0, 400, SIDES[::-1]) + 3 * np.arange(SIDES[0])).astype(np.uint16)
    return save(
        project / "z.ome.zarr",
        [array, array[::2, ::2, ::2]],
        "zyx",
        "0.5",
        [(1, 0.5, 0.5), (2, 1, 1)],
        chunks=(8, 64, 64),
    )


class Killer:
    """Kills a worker when it is called for the first time, and notes what that worker was doing."""

    def __init__(self, address: str) -> None:
        self.client = Client(address, set_as_default=False)
        self.processes = self.client.run(os.getpid)
        self.worked_on: tuple[Any, ...] | None = None

    def __call__(self, *_: object) -> None:
        if self.worked_on is None:
            name, pid = next(iter(self.processes.items()))
            self.worked_on = tuple(self.client.processing()[name])
            os.kill(pid, signal.SIGKILL)


def segment(
    inputs: list[Path],
    project: Path,
    out: Path,
    workers: Processes | DaskWorkers,
    done: Callable[..., object] = lambda *_: None,
    progress: Callable[[str, float], object] = lambda *_: None,
) -> dict[str, dict[str, Any]]:
    results = segment_all(plan_tasks(inputs, project, out), workers, done, progress)
    return {result["image"]: result for result in results}


def labels_in(folder: Path) -> dict[str, bytes]:
    """All files but the records, which tell seconds and paths."""
    return {name: content for name, content in snapshot(folder).items() if "/" in name or not name.endswith(".json")}


def test_volumes_are_those_of_this_computer_although_a_worker_is_killed(
    project: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    images = [write_image(project / f"v{number}.nii.gz", (40, 36, 24), seed=number) for number in range(12)]
    damaged = write_image(project / "damaged.nii.gz")
    damaged.write_bytes(damaged.read_bytes()[:3000])
    here = segment(images, project, tmp_path / "here", Processes(1))
    kill = Killer(cluster.scheduler_address)
    with kill.client, connected(cluster.scheduler_address) as workers:
        assert workers.count == 2
        there = segment([*images, damaged], project, tmp_path / "there", workers, kill)
        assert kill.worked_on
        assert labels_in(tmp_path / "there") == labels_in(tmp_path / "here")
        failed = there.pop("damaged")
        assert failed["status"] == "failed"
        assert str(damaged) in failed["message"]
        assert "on the worker tcp://127.0.0.1:" in failed["message"]
        assert [result["voxels"] for result in there.values()] == [result["voxels"] for result in here.values()]
        assert {result["status"] for result in there.values()} == {"done"}
        again = segment(images, project, tmp_path / "there", workers)
    assert {result["status"] for result in again.values()} == {"up to date"}


def test_boxes_of_one_image_are_those_of_this_computer_although_a_worker_is_killed(
    project: Path, zarr_image: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    here = segment([zarr_image], project, tmp_path / "here", Processes(1))
    assert min(here["z"]["voxels"].values()) > 1000
    kill = Killer(cluster.scheduler_address)
    steps = list[float]()

    def progress(what: str, fraction: float) -> None:
        if what == "segmenting":
            steps.append(fraction)
            if fraction:
                kill()

    with kill.client, connected(cluster.scheduler_address) as workers:
        there = segment([zarr_image], project, tmp_path / "there", workers, progress=progress)
    assert kill.worked_on
    assert any("segment_box" in str(key) or "_named_call" in str(key) for key in kill.worked_on)
    assert steps == pytest.approx([number / BOXES for number in range(BOXES + 1)])
    assert there["z"]["voxels"] == here["z"]["voxels"]
    assert labels_in(tmp_path / "there") == labels_in(tmp_path / "here")


def test_without_workers_or_scheduler_finished_boxes_are_kept_and_the_same_command_goes_on(
    project: Path, zarr_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_workers, "POLL", 0.1)
    monkeypatch.setattr(dask_workers, "PATIENCE", 0.3)
    out, steps = tmp_path / "out", list[float]()

    def segment_until(end: Callable[[LocalCluster], object], words: str) -> None:
        """Segment until two steps are told: where the work begins, and the first box."""
        told = list[float]()
        with start(workers=1) as cluster, connected(cluster.scheduler_address) as workers:

            def progress(what: str, fraction: float) -> None:
                if what == "segmenting":
                    told.append(fraction)
                    if len(told) == 2:
                        monkeypatch.setattr(dask_workers, "TIMEOUT", 1)
                        end(cluster)

            # As many as it takes to share an image
            monkeypatch.setattr(workers, "count", 2)
            with pytest.raises(WorkersLost, match=words):
                segment([zarr_image], project, out, workers, progress=progress)
        assert len(list((out / ".z.ome.zarr.unfinished/done").iterdir())) >= round(BOXES * told[-1])
        assert not (out / "z.ome.zarr").exists()
        steps.append(told[0])

    segment_until(lambda cluster: cluster.scale(0), "no worker is left")
    segment_until(lambda cluster: cluster.close(), "the scheduler doesn't answer any more")
    # The second command began where the first one had ended.
    assert steps[1] > steps[0] == 0
    result = segment([zarr_image], project, out, Processes(1))["z"]
    assert result["status"] == "done"
    segment([zarr_image], project, tmp_path / "here", Processes(1))
    assert labels_in(out) == labels_in(tmp_path / "here")


def test_a_damaged_chunk_is_named_and_finished_boxes_are_kept(
    project: Path, zarr_image: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    out, damaged = tmp_path / "out", []

    def damage(what: str, fraction: float) -> None:
        if what == "segmenting" and not damaged:
            chunk = max(path for path in (zarr_image / "0").rglob("*") if path.is_file() and path.name != "zarr.json")
            damaged.append((chunk, chunk.read_bytes()))
            chunk.write_bytes(b"")

    with connected(cluster.scheduler_address) as workers:
        failed = segment([zarr_image], project, out, workers, progress=damage)["z"]
        ((chunk, content),) = damaged
        assert failed["status"] == "failed"
        assert str(chunk) in failed["message"]
        chunk.write_bytes(content)
        assert segment([zarr_image], project, out, workers)["z"]["status"] == "done"


def end_process(_: int) -> None:
    os._exit(9)


def refuse(item: int) -> int:
    if item == 2:
        raise InputError("two")
    return item + 1


def test_what_a_worker_raises_is_the_outcome(cluster: LocalCluster) -> None:
    with connected(cluster.scheduler_address) as workers:
        found = dict(workers.each(refuse, [1, 2, 3]))
    assert (found[1], found[3]) == (2, 4)
    assert isinstance(found[2], InputError)
    assert str(found[2]).startswith("two (on the worker tcp://")


def test_work_that_ends_every_worker_is_given_up() -> None:
    with (
        dask_config.set({"distributed.scheduler.allowed-failures": 0}),
        start(workers=1) as cluster,
        connected(cluster.scheduler_address) as workers,
    ):
        ((_, outcome),) = workers.each(end_process, [1])
    assert isinstance(outcome, Crashed)
    assert str(outcome).startswith("1 workers have ended while they worked on it")


def test_workers_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with (
        start(workers=1, threads=2) as cluster,
        pytest.raises(InputError, match=r"worker .* has several threads; start workers by .* --nthreads 1"),
        connected(cluster.scheduler_address),
    ):
        pass
    with start(workers=0) as cluster:
        with pytest.raises(InputError, match="no worker is connected"), connected(cluster.scheduler_address):
            pass
        # Not by LocalCluster, whose workers import what this process can.
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, "--nthreads", "1"]
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with subprocess.Popen(command, cwd=tmp_path, env=clean, stderr=subprocess.DEVNULL) as worker:
            wait_until(lambda: cluster.scheduler_info["workers"], worker)
            with (
                pytest.raises(InputError, match=r"can't import this software.*PYTHONPATH"),
                connected(cluster.scheduler_address),
            ):
                pass
            worker.terminate()


def test_files_that_a_worker_does_not_see_are_named(cluster: LocalCluster, tmp_path: Path) -> None:
    with connected(cluster.scheduler_address) as workers:
        workers.check_they_see([tmp_path])
        with pytest.raises(InputError, match=r"elsewhere: the worker tcp://.* can't read it; all workers must see"):
            workers.check_they_see([tmp_path, tmp_path / "elsewhere"])


def test_an_address_at_which_no_scheduler_answers_is_refused_at_once(project: Path, tmp_path: Path) -> None:
    write_image(project / "a.nii.gz")
    command = [sys.executable, str(APP), "segment", str(project), "--model", str(project), "--out", str(tmp_path)]
    done = subprocess.run([*command, "--dask", "tcp://127.0.0.1:9"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("--dask: tcp://127.0.0.1:9: ")
    assert "start `dask scheduler`, and give its address" in done.stderr
    both = subprocess.run([*command, "--dask", "tcp://127.0.0.1:9", "--workers", "2"], capture_output=True, text=True)
    assert (both.returncode, "leave --workers out" in both.stderr) == (2, True)
