"""The command ``inspect``: what it says, compared with what was stored, and that it writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lib.commands.inspection import describe_folder, describe_model
from lib.commands.inspection_report import inspect_and_report
from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.split import Block, SliceSplit
from lib.core.errors import InputError
from lib.core.model.model import Model, build_network
from lib.core.plan.plan import Plan
from project import APP
from serving import SHAPE, SPACING, paint, publish, scaled, snapshot, write_image
from stores import SCHEME, open_store, submit


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An annotated image of two versions with a prediction, an image of two channels in files, and a model."""
    studies = tmp_path / "studies"
    studies.mkdir()
    write_image(studies / "a.nii.gz")
    for channel in range(2):
        write_image(studies / f"b_{channel:04d}.nii.gz", seed=channel)
    # A header with a data file, which is no image of its own.
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkUInt8), str(studies / "d.mhd"))
    store = open_store(studies)
    submit(store, tmp_path, paint()[::-1])
    submit(store, tmp_path, paint())
    model = {"run": "a run", "epoch": 3, "score": 0.5}
    one = np.ones(SHAPE, np.uint8)
    store.save_prediction("a", one, one, scaled(*SPACING), {"model": model})
    publish(studies / "models", SCHEME)
    return studies


def test_a_folder(project: Path) -> None:
    before = snapshot(project)
    found = describe_folder(project, project / "models")
    assert snapshot(project) == before
    assert (found["faults"], found["notes"]) == ([], [])
    assert list(found["images"]) == ["a", "b", "d"]
    a, b = found["images"]["a"], found["images"]["b"]
    assert (a["shape"], a["voxel_mm"], a["channels"], a["type"], a["format"]) == (
        SHAPE,
        SPACING,
        1,
        "uint16",
        ".nii.gz",
    )
    assert (b["channels"], b["files"], b["versions"]) == (2, 2, [])
    assert "annotation" not in b
    assert (a["versions"], a["annotation"]["version"]) == ([1, 2], 2)
    assert a["annotation"]["labelled_percent"] == pytest.approx(100 * np.count_nonzero(paint()) / paint().size)
    assert a["annotation"]["annotated_slices"] == [[6, 10], [5, 9], [4, 6]]
    assert a["prediction"]["model"]["run"] == "a run"
    assert found["model"] == describe_model(project / "models/model.pt")


def test_faults_are_lines(project: Path) -> None:
    (project / "a.nii.gz").write_bytes(b"x")
    (project / "b_0000.nii.gz").unlink()
    write_image(project / "c_0000.nii.gz")
    (project / "labels/version_1/gone.nii.gz").write_bytes(b"x")
    (project / "labels/version_2/a.json").write_text("{")
    (project / "models/model.pt").write_bytes(b"x")
    found = describe_folder(project, project / "models")
    assert list(found["images"]) == ["a", "b", "c", "d"]
    said = "\n".join(found["faults"])
    for part in ("a.nii.gz: ", "b_0000.nii.gz: no such file", "version_1/gone.nii.gz: there is no image", "model.pt: "):
        assert part in said
    assert "version_2/a.nii.gz: what was stored about it is missing or damaged" in said


def test_an_annotation_that_does_not_fit_is_a_fault(project: Path) -> None:
    write_image(project / "a.nii.gz", affine=scaled(1, 1, 1))
    found = describe_folder(project, project / "models")
    assert [fault.split(": ")[0] for fault in found["faults"]] == [
        str(project / f"labels/{tag}/a.nii.gz") for tag in ("final", "prediction")
    ]


def test_a_folder_without_a_label_is_left_as_it_is(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz")
    os.chmod(tmp_path, 0o555)
    try:
        assert describe_folder(tmp_path, tmp_path / "models")["model"] is None
    finally:
        os.chmod(tmp_path, 0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.dcm").touch()
    with pytest.raises(InputError, match=r"has no image \(.*\); 1 \.dcm file \(x\.dcm\): DICOM"):
        inspect_and_report(tmp_path, None, False)
    with pytest.raises(InputError, match="missing: no such file or folder"):
        inspect_and_report(tmp_path / "missing", None, False)
    with pytest.raises(InputError, match=r"x\.dcm: cannot be read as a model file"):
        inspect_and_report(tmp_path / "x.dcm", None, False)


def test_a_model(tmp_path: Path) -> None:
    plan = Plan(scheme=SCHEME, channels=2, spacing=(1.0, 1.0, 2.0), width=2, tile=(92, 92, 92))
    split = SliceSplit(
        {"a": [AnnotatedSlice(0, 1), AnnotatedSlice(1, 2)], "b": [AnnotatedSlice(2, 2)]},
        {"a": [AnnotatedSlice(2, 3)]},
        {"b": [Block(0, 4, 6)]},
    )
    network = build_network(plan)
    Model(network, plan, split, 0.25, "validation IoU", "today", 7).save(tmp_path / "model.pt")
    found = describe_model(tmp_path / "model.pt")
    assert (found["training_slices"], found["held_out_slices"], found["images"]) == (3, 1 + 3, 2)
    assert found["parameters"] == sum(of.numel() for of in network.parameters())
    assert (found["classes"], found["background"], found["channels"]) == (("inside", "tubule"), "outside", 2)
    assert (found["score"], found["metric"], found["run"], found["epoch"]) == (0.25, "validation IoU", "today", 7)
    assert any(line.startswith("width 2 instead of 32") for line in found["differs_from_paper"])
    assert found["size_bytes"] == (tmp_path / "model.pt").stat().st_size


def test_the_text(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_and_report(project, None, False) == 0
    said = capsys.readouterr().out
    assert "20 × 18 × 12" in said
    assert "a run, epoch 3" in said
    assert "axis 0 (L-R, sagittal): 6, 10" in said
    assert "score:       0.500 (validation IoU)" in said
    (project / "a.nii.gz").write_bytes(b"x")
    assert inspect_and_report(project, None, False) == 1
    assert "Faults:\n" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_line(project: Path) -> None:
    (project / "a.nii.gz").write_bytes(b"x")
    before = snapshot(project)
    done = subprocess.run(
        [sys.executable, str(APP), "inspect", str(project), "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert list(json.loads(done.stdout)["images"]) == ["a", "b", "d"]
    assert snapshot(project) == before
