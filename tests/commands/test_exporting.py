"""The command that exports a model, and where its paint came from."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lib.commands.exporting import export_and_report
from lib.core.errors import InputError
from lib.core.export.package import WRITERS
from lib.core.labels import LabelScheme
from lib.core.model.model import Model
from project import APP
from serving import paint, publish, write_image, write_label
from stores import open_store

SCHEME = LabelScheme(("nucleus", "wall"), "nothing")


def submit(project: Path, image: str, by: str | None) -> None:
    names = [{"name": name, "idx": value} for value, name in enumerate(SCHEME.classes, start=1)]
    label = write_label(project.parent / "label.nii.gz", paint())
    params = {"label_info": names, **({"client_id": by} if by else {})}
    open_store(project, SCHEME).save_label(image, str(label), "final", params)


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(APP), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def train(project: Path, *options: str) -> None:
    done = run("train", project, "--conf", "width=2", "--epochs", "1", *options)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with two images, of which the first has been painted twice."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in "ab":
        write_image(folder / f"{name}.nii.gz")
    submit(folder, "a", "anna")
    submit(folder, "a", "bert")
    return folder


def provenance(project: Path, out: Path) -> list[dict[str, Any]]:
    done = run("export", project, "--as", "torchscript", "--out", out, "--provenance")
    assert done.returncode == 0, done.stderr
    assert f"{out}: Batch normalisation uses averages over training tiles" in done.stdout + done.stderr
    return json.loads((out / "model_card.json").read_text())["paint"]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_provenance_is_what_training_read(project: Path, tmp_path: Path) -> None:
    train(project)
    (version,) = provenance(project, tmp_path / "first")
    stored = (project / "labels/version_2/a.nii.gz").read_bytes()
    info = json.loads((project / "labels/version_2/a.json").read_text())
    digest = hashlib.sha256(stored).hexdigest()
    assert version == {"image": "a", "version": 2, "by": "bert", "time": info["time"], "sha256": digest}
    # What was painted afterwards hasn't been learnt yet; what was learnt before stays learnt.
    submit(project, "a", None)
    submit(project, "b", "carl")
    (still,) = provenance(project, tmp_path / "second")
    assert still == version
    train(project)
    known = provenance(project, tmp_path / "third")
    assert [(of["image"], of["version"], of["by"]) for of in known] == [
        ("a", 2, "bert"),
        ("a", 3, ""),
        ("b", 1, "carl"),
    ]
    (project / "models/model.pt").unlink()
    train(project, "--afresh")
    afresh = provenance(project, tmp_path / "fourth")
    assert [(of["image"], of["version"]) for of in afresh] == [("a", 3), ("b", 1)]


@pytest.mark.slow
def test_training_goes_on_from_what_an_earlier_version_saved(project: Path, tmp_path: Path) -> None:
    """What it had learnt from isn't known, so nobody says that it is."""
    train(project)
    checkpoint = torch.load(project / "models/checkpoint.pt", weights_only=True)
    del checkpoint["paint"]
    torch.save(checkpoint, project / "models/checkpoint.pt")
    train(project)
    assert Model.load(project / "models/model.pt").origin is not None
    done = run("export", project, "--as", "torchscript", "--out", tmp_path / "out", "--provenance")
    assert done.returncode == 2
    assert "--provenance: the model doesn't record all versions" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    publish(tmp_path / "models", SCHEME)
    return tmp_path / "models/model.pt"


def test_the_model_may_be_named_by_its_folder_and_an_image_gives_statistics(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "a.nii.gz")
    export_and_report(untrained.parent, "onnx", tmp_path / "out", image, "CC0-1.0", False)
    said = capsys.readouterr()
    assert f"statistics that Run takes for {image}" in said.err
    assert said.out == ""
    card = json.loads((tmp_path / "out/model_card.json").read_text())
    assert card["sha256"] == hashlib.sha256(untrained.read_bytes()).hexdigest()
    assert card["licence"] == "CC0-1.0"
    assert card["exported_by"]["torch"] == torch.__version__


def test_bad_input_is_said_and_leaves_nothing(untrained: Path, tmp_path: Path) -> None:
    def export(model: Path = untrained, out: Path = tmp_path / "out", image: Path | None = None) -> None:
        export_and_report(model, "torchscript", out, image, "", False)

    content = torch.load(untrained, weights_only=True)
    older, damaged, taken = tmp_path / "older.pt", tmp_path / "damaged.pt", tmp_path / "taken"
    torch.save({**content, "format": 0}, older)
    damaged.write_bytes(untrained.read_bytes()[:5000])
    taken.mkdir()
    (taken / "mine").touch()
    channels = np.zeros((9, 9, 9, 2), np.uint8)
    nibabel.save(nibabel.Nifti1Image(channels, np.eye(4)), tmp_path / "two.nii.gz")
    for arguments, words in (
        ({"model": older}, r"older.pt: model file format 0, expected 1; train again with this version"),
        ({"model": damaged}, "damaged.pt: cannot be read"),
        ({"model": tmp_path / "nowhere"}, "no model; give a model file"),
        ({"out": taken}, "taken: exists already and isn't empty; give a new folder"),
        ({"out": untrained / "out"}, "nothing was left there"),
        ({"image": tmp_path / "two.nii.gz"}, r"2 channel\(s\), the model was trained on 1"),
        ({"image": tmp_path / "none.nii.gz"}, "none.nii.gz"),
    ):
        with pytest.raises(InputError, match=words):
            export(**arguments)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".writing*"))


def test_the_formats_are_those_of_the_command() -> None:
    done = run("export", "model.pt", "--as", "caffe", "--out", "out")
    assert done.returncode == 2
    for kind in WRITERS:
        assert f"'{kind}'" in done.stderr
