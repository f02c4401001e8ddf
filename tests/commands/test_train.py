"""The command that trains a project without a server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lib.commands.train import train_and_report
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.owner import Owner
from lib.server.jobs.latest_training import LatestTraining, Training
from project import APP
from serving import paint, write_image, write_label
from stores import open_store

SCHEME = LabelScheme(("nucleus", "wall"), "nothing")
REQUEST = {"max_epochs": 2, "max_minutes": 0.0, "start": "continue"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an image that is annotated with the classes of ``SCHEME``."""
    folder = tmp_path / "project"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    names = [{"name": name, "idx": value} for value, name in enumerate(SCHEME.classes, start=1)]
    label = write_label(tmp_path / "label.nii.gz", paint())
    open_store(folder, SCHEME).save_label("a", str(label), "final", {"label_info": names})
    return folder


def command(project: Path, *options: str) -> list[str]:
    return [sys.executable, str(APP), "train", str(project), "--conf", "width=2", *options]


def record(project: Path) -> dict[str, Any]:
    return json.loads((project / "models/training.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_it_trains_the_classes_of_the_annotations_and_goes_on(project: Path) -> None:
    done = subprocess.run(command(project, "--epochs", "2", "--json"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["epoch"], report["finished"]) == (2, True)
    model = Model.load(project / "models/model.pt")
    assert (model.plan.scheme, model.plan.width) == (SCHEME, 2)
    assert record(project)["status"] == "DONE"
    again = subprocess.run(command(project, "--epochs", "3"), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    checkpoint = torch.load(project / "models/checkpoint.pt", weights_only=True)
    assert (checkpoint["steps"], checkpoint["finished"]) == (50, True)


@pytest.mark.slow
def test_torchrun_trains_by_two_processes_of_which_one_reports(project: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    options = command(project, "--epochs", "1", "--json")[1:]
    done = subprocess.run([*torchrun, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"]
    assert record(project)["status"] == "DONE"
    assert torch.load(project / "models/checkpoint.pt", weights_only=True)["steps"] == 10


@pytest.mark.slow
def test_ctrl_c_saves_and_ends_it(project: Path) -> None:
    with subprocess.Popen(command(project, "--epochs", "100000"), stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 600
        while not (project / "models/checkpoint.pt").exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert record(project)["status"] == "STOPPED"


def test_a_training_that_runs_already_is_named(project: Path) -> None:
    latest = LatestTraining(ModelFolder(project / "models"))
    training = Training("an id", {"client_id": "anna"}, Owner.of(os.getpid()))
    with latest.folder.locked():
        latest.begin(training)
    with pytest.raises(InputError, match=r"training runs already: .* by 'anna'"):
        train_and_report(project, ["width=2"], REQUEST, True)
    assert record(project)["id"] == "an id"


def test_bad_input_is_refused_and_changes_nothing(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, conf, words in (
        (tmp_path / "nowhere", [], "no such folder"),
        (tmp_path / "empty", [], "the classes aren't known"),
        (project, ["width"], "give KEY=VALUE"),
        (project, ["widht=3"], "no such option"),
        (project, ["labels=a,b", "background=c"], "training: "),
    ):
        with pytest.raises(InputError, match=words):
            train_and_report(folder, conf, REQUEST, True)
    assert not (project / "models").exists()
