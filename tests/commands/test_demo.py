"""The command ``demo`` as a person runs it: a process of its own, with a real server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest

from lib.commands.demo import label_scheme, read_cases
from lib.commands.server_process import ServerError, running_server
from lib.core.errors import InputError

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(PROJECT / "apps" / "sparse_unet3d"), "demo"]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), path)


@pytest.fixture
def studies(tmp_path):
    """A folder with images/ and labels/: two small volumes with a bright ball in each, and one without truth."""
    folder = tmp_path / "studies"
    x, y, z = np.meshgrid(*(np.arange(size) for size in (24, 20, 12)), indexing="ij")
    rng = np.random.default_rng(0)
    for number in (1, 2):
        ball = ((x - 9 - number) ** 2 + (y - 10) ** 2 + (2 * (z - 6)) ** 2 < 36).astype(np.uint8)
        save(
            folder / "images" / f"ball_{number}.nii.gz",
            (1000 * ball + rng.normal(300, 60, ball.shape)).astype(np.int16),
        )
        save(folder / "labels" / f"ball_{number}.nii.gz", ball)
    save(folder / "images" / "without_truth.nii.gz", np.zeros((24, 20, 12), np.int16))
    return folder


def processes_about(text):
    """Ids of the running processes that have ``text`` in their command line or environment, this one left out."""
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
    """The demo's scratch folders go where the test can find out who still uses them."""
    scratch.mkdir()
    return {**os.environ, "TMPDIR": str(scratch)}


def test_demo_runs_the_loop_and_leaves_only_its_report(studies, tmp_path):
    output, scratch = tmp_path / "demo", tmp_path / "scratch"
    command = [*COMMAND, "--studies", studies, "--labels", "ball", "--minutes", "0.0001", "--output", output]
    done = subprocess.run(command, env=environment(scratch), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch 1: loss" in done.stdout

    report = json.loads((output / "report.json").read_text())
    assert report["seconds"] > 0
    for kind in ("semi_automated", "fully_automated"):
        assert set(report[kind]["iou"]) == {"ball"}
        assert report[kind]["mean_foreground_iou"] == report[kind]["iou"]["ball"]
        assert 0 <= report[kind]["mean_foreground_iou"] <= 1
    # One slice along each axis: all voxels but those on none of the three.
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


def test_ctrl_c_during_training_stops_all_that_was_started(studies, tmp_path):
    output, scratch = tmp_path / "demo", tmp_path / "scratch"
    command = [*COMMAND, "--studies", studies, "--output", output]
    running = subprocess.Popen(
        command, env=environment(scratch), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in running.stdout:
        if "Training for" in line:
            break
    # The server starts a process for the training; a person may press Ctrl-C while it runs.
    patience = time.monotonic() + 30
    while len(processes_about(str(scratch))) < 3 and time.monotonic() < patience:
        time.sleep(0.2)
    assert len(processes_about(str(scratch))) >= 3
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors.strip().splitlines()[-1] == "Interrupted."
    assert processes_about(str(scratch)) == []
    assert not list(scratch.glob("sparse_unet3d_*"))


def test_server_that_cannot_start_is_reported_with_its_log(studies, tmp_path):
    log = tmp_path / "demo" / "server.log"
    with (
        pytest.raises(ServerError, match="stopped while it was starting") as error,
        running_server(studies / "images", {"labels": "ball,ball"}, log, tmp_path),
    ):
        pass
    assert "ball" in str(error.value).split("The end of its log")[1]


def test_bad_folder_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run([*COMMAND, "--studies", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "images") in done.stderr


def test_only_volumes_with_truth_are_used(studies):
    assert list(read_cases(studies / "images", studies / "labels")) == ["ball_1", "ball_2"]


def test_volumes_by_channel_have_truths_without_number(studies):
    for number in (1, 2):
        image = studies / "images" / f"ball_{number}.nii.gz"
        array = np.asarray(nibabel.load(image).dataobj)
        image.unlink()
        for channel in range(2):
            save(studies / "images" / f"ball_{number}_000{channel}.nii.gz", array + np.int16(channel))
    cases = read_cases(studies / "images", studies / "labels")
    assert list(cases) == ["ball_1", "ball_2"]
    for number, case in enumerate(cases.values(), start=1):
        assert [path.name for path in case.files] == [f"ball_{number}_000{channel}.nii.gz" for channel in range(2)]
        assert (case.volume.array[1] == case.volume.array[0] + 1).all()
    case.files[1].unlink()
    with pytest.raises(InputError, match="ball_2_0001"):
        read_cases(studies / "images", studies / "labels")


def test_one_volume_is_too_few(studies):
    (studies / "labels" / "ball_2.nii.gz").unlink()
    with pytest.raises(InputError, match="at least 2"):
        read_cases(studies / "images", studies / "labels")


def test_truth_on_another_grid_is_refused(studies):
    save(studies / "labels" / "ball_2.nii.gz", np.zeros((24, 20, 10), np.uint8))
    with pytest.raises(InputError, match="ball_2"):
        read_cases(studies / "images", studies / "labels")


def test_classes_are_named_after_their_number_or_as_told(studies):
    cases = read_cases(studies / "images", studies / "labels")
    assert label_scheme("", cases).foreground == ("class_1",)
    assert label_scheme("ball, other", cases).foreground == ("ball", "other")
    cases["ball_1"].truth[0, 0, 0] = 2
    with pytest.raises(InputError, match="names 1 classes, but the truth has 2"):
        label_scheme("ball", cases)
