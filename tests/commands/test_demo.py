"""The command ``demo`` as a person runs it: in its own process, with a real server."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from lib.commands.errors import ServerError
from lib.commands.server_process import running_server
from project import PROJECT
from serving import PATIENCE, wait_until

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, str(PROJECT / "apps" / "sparse_unet3d"), "demo"]


def processes_about(text):
    """Return the ids of all other running processes that have ``text`` in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            about = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if text in about and process.pid != os.getpid():
            found.append(process.pid)
    return found


def environment(scratch):
    """Put the demo's temporary folders where the test can find the processes that use them."""
    scratch.mkdir()
    return {**os.environ, "TMPDIR": str(scratch)}


def test_demo_runs_the_loop_and_leaves_only_its_report(dense_studies, tmp_path):
    output, scratch = tmp_path / "demo", tmp_path / "scratch"
    command = [*COMMAND, "--studies", dense_studies, "--labels", "ball", "--minutes", "0.0001", "--output", output]
    done = subprocess.run(command, env=environment(scratch), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1: loss" in done.stdout

    report = json.loads((output / "report.json").read_text())
    assert report["seconds"] > 0
    for kind in ("semi_automated", "fully_automated"):
        assert set(report[kind]["iou"]) == {"ball"}
        assert report[kind]["mean_foreground_iou"] == report[kind]["iou"]["ball"]
        assert 0 <= report[kind]["mean_foreground_iou"] <= 1
    # One slice along each axis is painted: all voxels but those on none of the three.
    share = 1 - (23 * 19 * 11) / (24 * 20 * 12)
    assert report["labelled_voxels_percent"] == pytest.approx(100 * share)
    assert [(volume["id"], volume["annotated"]) for volume in report["volumes"]] == [
        ("ball_1", True),
        ("ball_2", False),
    ]
    assert [len(indices) for indices in report["volumes"][0]["annotated_slices"]] == [1, 1, 1]
    assert report["volumes"][1]["annotated_slices"] == [[], [], []]
    assert report["training"]["history"][0]["epoch"] == 1
    assert "data:image/png;base64" in (output / "report.html").read_text()
    assert "Epoch 1" in (output / "server.log").read_text()
    assert not list(scratch.glob("sparse_unet3d_*"))
    assert processes_about(str(scratch)) == []


def test_ctrl_c_during_training_stops_all_started_processes(dense_studies, tmp_path):
    output, scratch = tmp_path / "demo", tmp_path / "scratch"
    command = [*COMMAND, "--studies", dense_studies, "--output", output]
    running = subprocess.Popen(
        command, env=environment(scratch), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in running.stdout:
        if "Training for" in line:
            break
    # The server starts a process for the training; a person may press Ctrl-C while it runs.
    wait_until(lambda: len(processes_about(str(scratch))) >= 3, running)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert errors.strip().splitlines()[-1] == "Interrupted."
    assert processes_about(str(scratch)) == []
    assert not list(scratch.glob("sparse_unet3d_*"))


def test_server_that_cannot_start_is_reported_with_its_log(dense_studies, tmp_path):
    log = tmp_path / "demo" / "server.log"
    with (
        pytest.raises(ServerError, match="stopped while it was starting") as error,
        running_server(dense_studies / "images", {"labels": "ball,ball"}, log, tmp_path),
    ):
        pass
    assert "ball" in str(error.value).split("The end of its log")[1]


def test_bad_folder_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run([*COMMAND, "--studies", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "images") in done.stderr
