"""Trainings, scorings and batch inference of real servers, as clients start, watch and stop them."""

import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch

from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.server.jobs.jobs import Jobs
from project import APP
from serving import NAMED, PATIENCE, Server, is_alive, paint, publish, wait_until, write_image, write_label

pytestmark = pytest.mark.slow

TRAIN = "/train/sparse_unet3d"
ENDLESS = {"max_epochs": 100_000}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image to be annotated, and one that takes long to segment."""
    folder = tmp_path_factory.mktemp("studies")
    write_image(folder / "a.nii.gz", seed=1)
    return folder


@pytest.fixture(scope="module")
def servers(annotated: Path, tmp_path_factory: pytest.TempPathFactory, start_server: Callable[..., Server]) -> Any:
    """Two servers of the same folder."""
    both = [start_server(annotated, width="2") for _ in range(2)]
    label = write_label(tmp_path_factory.mktemp("label") / "label.nii.gz", paint())
    both[0].wait().put_label("a", label, NAMED).raise_for_status()
    return both[0], both[1].wait()


def start(server: Server, path: str = TRAIN, **request: Any) -> requests.Response:
    return requests.post(server.url + path, json=request, timeout=PATIENCE)


def stop(server: Server, path: str = "/train/") -> Any:
    reply = requests.delete(server.url + path, timeout=PATIENCE)
    reply.raise_for_status()
    return reply.json()


def stats(server: Server) -> dict[str, Any]:
    return server.client.info()["train_stats"]["sparse_unet3d"]  # type: ignore[no-any-return]


def ended(server: Server, path: str = "/train/") -> dict[str, Any]:
    """Wait for the end of the latest job."""
    server.wait_until(lambda: server.get(path).json()["status"] != "RUNNING")
    return server.get(path).json()  # type: ignore[no-any-return]


def test_before_the_first_job(servers: tuple[Server, Server]) -> None:
    for server in servers:
        for path in ("/train/", "/scoring/", "/batch/infer"):
            for query in ({}, {"all": "true"}, {"check_if_running": "true"}):
                assert server.get(path, params=query).status_code == 404
            assert stop(server, path) is None


@pytest.mark.parametrize(
    "request_", [{"gpus": torch.cuda.device_count()}, {"gpus": "x"}, {"device": "cuda:99"}, {"device": "tpu"}]
)
def test_a_device_that_is_not_there_is_refused_at_once(
    servers: tuple[Server, Server], annotated: Path, request_: dict[str, Any]
) -> None:
    for server in servers:
        reply = start(server, **request_)
        assert reply.status_code == 400
        assert reply.json()["detail"].startswith(next(iter(request_)))
        assert server.get("/train/").status_code == 404
    assert not (annotated / "models/training.json").exists()


def test_only_one_of_two_servers_trains_and_both_see_and_stop_it(
    servers: tuple[Server, Server], annotated: Path
) -> None:
    replies: list[requests.Response] = []
    starts = [
        threading.Thread(target=lambda one=one: replies.append(start(one, client_id="anna", **ENDLESS)))  # type: ignore[misc]
        for one in servers
    ]
    for one in starts:
        one.start()
    for one in starts:
        one.join()
    started, refused = sorted(replies, key=lambda reply: reply.status_code)
    assert (started.status_code, refused.status_code) == (200, 429)
    task = started.json()
    assert set(task) == {"id", "status", "request", "start_ts", "details", "check"}
    assert (task["status"], task["request"]["model"]) == ("RUNNING", "sparse_unet3d")
    ours, other = servers if servers[0].jobs() else servers[::-1]
    (process,) = ours.jobs()
    assert other.jobs() == []
    for words in (f"started {task['start_ts']}", "by 'anna'", f"process {process.pid} on "):
        assert words in refused.json()["detail"]

    for server in servers:
        server.wait_until(lambda server=server: stats(server)["epoch"] >= 2)
        for query in ({}, {"check_if_running": "true"}):
            seen = server.get("/train/", params=query).json()
            assert (seen["id"], seen["status"]) == (task["id"], "RUNNING")
            assert seen["request"] == task["request"]
            assert len(seen["details"]) <= 20
            assert re.search(r"Epoch \d+ of 100000, ", seen["details"][-1])
        assert [one["id"] for one in server.get("/train/", params={"all": "true"}).json()] == [task["id"]]
        again = start(server, **ENDLESS)
        assert (again.status_code, f"process {process.pid} on " in again.json()["detail"]) == (429, True)

    # The server that hasn't started it stops it; it saves what it has learnt.
    stopped = stop(other)
    assert not is_alive(process)
    assert (stopped["id"], stopped["status"]) == (task["id"], "STOPPED")
    assert stopped["end_ts"] >= stopped["start_ts"]
    for server in servers:
        server.wait_until(lambda server=server: server.get("/train/").json()["status"] == "STOPPED")
        assert server.get("/train/", params={"check_if_running": "true"}).status_code == 404
        assert stop(server) is None
    checkpoint = torch.load(annotated / "models/checkpoint.pt", weights_only=True)
    assert (checkpoint["run"], checkpoint["finished"]) == (stats(ours)["run"], False)

    # The other one goes on from there, and stops its own.
    start(other, **ENDLESS).raise_for_status()
    epoch = checkpoint["epoch"]
    other.wait_until(lambda: stats(other)["epoch"] > epoch)
    assert stats(other)["run"] == checkpoint["run"]
    (process,) = other.jobs()
    assert stop(other)["status"] == "STOPPED"
    assert not is_alive(process)
    assert ended(ours)["status"] == "STOPPED"


def test_a_training_that_runs_to_its_end(servers: tuple[Server, Server]) -> None:
    ours, other = servers
    start(ours, max_epochs=1, start="afresh").raise_for_status()
    done = ended(ours)
    assert (done["status"], done["result"]["epoch"], done["result"]["finished"]) == ("DONE", 1, True)
    seen = ended(other)
    assert (seen["id"], seen["status"]) == (done["id"], "DONE")
    # The work ends before its process.
    assert done["start_ts"] <= seen["end_ts"] <= done["end_ts"]


LIMITED = pytest.mark.skipif(not hasattr(psutil, "RLIMIT_FSIZE"), reason="only Linux limits other processes")


@pytest.mark.parametrize("what", ["fails", "is killed", pytest.param("can't write", marks=LIMITED)])
def test_why_a_training_ended_is_told(servers: tuple[Server, Server], annotated: Path, what: str) -> None:
    """Whatever the exception is, and though its process can say nothing itself."""
    ours, other = servers
    events = annotated / "models/events"
    if what == "fails":
        # Epochs can't be reported: in the place of the folder there is a file.
        shutil.rmtree(events, ignore_errors=True)
        events.write_text("")
    start(ours, start="afresh", **ENDLESS).raise_for_status()
    if what == "fails":
        words = "training has failed ("
    else:
        ours.wait_until(lambda: "Epoch " in ours.get("/train/").json()["details"][-1])
        (process,) = ours.jobs()
        if what == "is killed":
            process.kill()
            words = "killed by the system (SIGKILL), which happens when memory is short"
        else:
            # As on a full disk: nothing can be written, not even how it ended.
            process.rlimit(psutil.RLIMIT_FSIZE, (0, 0))
            words = "training has failed ("
    told = ended(ours)
    if what == "fails":
        assert str(events) in told["message"]
        events.unlink()
    assert told["status"] == "ERROR"
    assert words in told["message"]
    assert told["details"][-1] == told["message"]
    for server in servers:
        server.wait_until(lambda server=server: server.get("/train/").json()["status"] == "ERROR")
        assert words in stats(server)["message"]
    if what != "is killed":
        assert "Traceback" in ours.log.read_text()
    # It is no obstacle to the next one.
    start(other, max_epochs=1).raise_for_status()
    assert ended(other)["status"] == "DONE"
    assert "fail" not in stats(ours)["message"]
    assert not list((annotated / "models").glob(".writing-*"))


def test_nothing_of_a_request_gets_around_the_task(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No module and no program of a client's is run, however long the request is."""
    mark = f"open({str(tmp_path / 'run')!r}, 'w')"
    for module in ("sitecustomize", "usercustomize", "lib", "main", "monailabel"):
        (tmp_path / f"{module}.py").write_text(mark)
    monkeypatch.setenv("MONAI_LABEL_APP_DIR", str(APP))
    monkeypatch.setenv("MONAI_LABEL_STUDIES", str(studies))
    # As the server's own is, whose empty first part is the working folder.
    monkeypatch.setenv("PYTHONPATH", os.pathsep + str(APP))
    monkeypatch.chdir(tmp_path)
    keys = ("bundle_path", "PYTHONPATH", "env", "cwd", "id", "server", "models", "-c", "--output")
    request = {"model": "sparse_unet3d", **dict.fromkeys(keys, str(tmp_path)), "long": "x" * 5_000_000}
    jobs = Jobs(ModelFolder(studies / "models"), lambda *_: {})
    jobs.start("train", request)
    wait_until(lambda: jobs.running("train") is None)
    state = jobs.status("train")
    assert state
    assert (state["status"], "nothing is annotated yet" in state["message"]) == ("ERROR", True)
    assert not (tmp_path / "run").exists()
    assert jobs.stop("train") is None


def test_scoring_and_batch_inference(servers: tuple[Server, Server], annotated: Path) -> None:
    ours, other = servers
    # An image that can't be read isn't the end.
    (annotated / "0.nii.gz").write_bytes(b"damaged")
    ours.wait_until(lambda: "0" in ours.client.datastore()["objects"])
    start(ours, "/batch/infer/sparse_unet3d").raise_for_status()
    done = ended(ours, "/batch/infer")
    (annotated / "0.nii.gz").unlink()
    assert (done["status"], done["result"]["segmented"], list(done["result"]["failed"])) == ("DONE", ["a"], ["0"])
    assert "0.nii.gz" in done["result"]["failed"]["0"]
    assert (annotated / "labels/prediction/a.nii.gz").is_file()
    # These belong to one server.
    assert other.get("/batch/infer").status_code == 404
    start(ours, "/scoring/iou").raise_for_status()
    done = ended(ours, "/scoring/")
    assert done["status"] == "DONE"
    assert set(done["result"]["images"]["a"]["iou"]) == {"inside", "tubule"}
    assert len(ours.get("/scoring/", params={"all": "true"}).json()) == 1


def test_a_long_batch_is_stopped(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    # Segmenting this takes many minutes.
    write_image(studies / "large.nii.gz", (400, 400, 120))
    publish(studies / "models", LabelScheme(("inside", "tubule"), "outside"), width=32)
    server = start_server(studies, memory="0.5").wait()
    start(server, "/batch/infer/sparse_unet3d").raise_for_status()
    again = start(server, "/batch/infer/sparse_unet3d")
    assert (again.status_code, "batch inference runs already" in again.json()["detail"]) == (429, True)
    (process,) = server.jobs()
    wait_until(lambda: " Segmenting " in server.log.read_text(), server.process)
    assert stop(server, "/batch/infer")["status"] == "STOPPED"
    assert not is_alive(process)
    assert json.loads((studies / "datastore_v2.json").read_text())["objects"]["large"]["labels"] == {}
