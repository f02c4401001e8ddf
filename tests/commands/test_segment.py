"""The command that segments volumes: its results are those of a segmenter that is called directly."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch

from lib.commands.segment import model_file, plan_tasks, segment_all, segment_one
from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.inference import large
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.model.model import Model
from lib.core.parallel import Processes
from lib.core.volumes import growing_labels
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume
from ome_zarr_files import save
from project import APP
from serving import SHAPE, publish, write_image


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a model and three images: NIfTI, TIFF, and a damaged one."""
    folder = tmp_path / "project"
    folder.mkdir()
    torch.manual_seed(3)
    publish(folder / "models", LabelScheme(("inside", "tubule"), "outside"))
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "d.nii.gz", seed=2)
    (folder / "d.nii.gz").write_bytes((folder / "d.nii.gz").read_bytes()[:3000])
    array = np.random.default_rng(5).integers(0, 400, SHAPE[::-1]).astype(np.uint16)
    tifffile.imwrite(folder / "t.ome.tif", array, ome=True, metadata={"axes": "ZYX", "PhysicalSizeX": 0.5})
    return folder


def expected(project: Path, name: str) -> Any:
    model, volume = Model.load(project / "models/model.pt"), read_volume(project / name)
    return Segmenter(model.network, model.plan, model.precision).segment(volume, Machine("cpu", 2 * 10**9))


def segment(project: Path, out: Path, workers: int = 1, *inputs: Path) -> dict[str, dict[str, Any]]:
    tasks = plan_tasks(inputs or [project], project, out)
    results = segment_all(tasks, Processes(workers), lambda _: None)
    return {str(result["image"]): result for result in results}


def test_results_are_the_segmenters_and_a_failure_is_a_line(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = segment(project, out)
    assert {name: result["status"] for name, result in results.items()} == {"a": "done", "d": "failed", "t": "done"}
    assert "d.nii.gz" in results["d"]["message"]
    image = nibabel.load(out / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), expected(project, "a.nii.gz"))
    np.testing.assert_allclose(image.affine, read_volume(project / "a.nii.gz").affine)
    found = tifffile.imread(out / "t.ome.tif").T
    np.testing.assert_array_equal(found, expected(project, "t.ome.tif"))
    values = {"outside": 0, "inside": 1, "tubule": 2}
    assert results["t"]["voxels"] == {name: int((found == value).sum()) for name, value in values.items()}


def test_only_what_has_changed_is_segmented_again(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment(project, out)
    assert {name: result["status"] for name, result in segment(project, out).items()} == {
        "a": "up to date",
        "d": "failed",
        "t": "up to date",
    }
    # Killed between the label map and its record, or a record that is damaged
    (out / "t.json").write_text("{")
    write_image(project / "a.nii.gz", seed=9)
    again = segment(project, out)
    assert (again["a"]["status"], again["t"]["status"]) == ("done", "done")
    np.testing.assert_array_equal(np.asarray(nibabel.load(out / "a.nii.gz").dataobj), expected(project, "a.nii.gz"))
    torch.manual_seed(4)
    publish(project / "models", LabelScheme(("inside", "tubule"), "outside"))
    assert segment(project, out)["a"]["status"] == "done"


@pytest.fixture
def zarr_image(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An OME-Zarr image that is segmented in four boxes."""
    pytest.importorskip("zarr", reason="zarr needs Python 3.11")
    monkeypatch.setattr(growing_labels, "CHUNK", 16)
    monkeypatch.setattr(large, "CHUNK", 16)
    monkeypatch.setattr(large, "MOST", 16 * 16 * 12)
    array = np.random.default_rng(6).integers(0, 400, SHAPE[::-1]).astype(np.uint16)
    return save(project / "z.ome.zarr", [array], "zyx", "0.5", [(1, 0.5, 0.5)], chunks=(8, 8, 8))


def test_an_ome_zarr_image_gets_a_label_image(project: Path, zarr_image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = segment(project, out, 1, zarr_image)["z"]
    assert result["out"] == str(out / "z.ome.zarr")
    found = OmeZarrSource(out / "z.ome.zarr")
    np.testing.assert_array_equal(found.read()[0], expected(project, "z.ome.zarr"))
    np.testing.assert_allclose(found.geometry.affine, OmeZarrSource(zarr_image).geometry.affine)
    values = {"outside": 0, "inside": 1, "tubule": 2}
    assert result["voxels"] == {name: int((found.read() == value).sum()) for name, value in values.items()}
    assert segment(project, out, 1, zarr_image)["z"]["status"] == "up to date"
    chunk = next(path for path in (zarr_image / "0").rglob("*") if path.is_file() and path.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-3])
    result = segment(project, out, 1, zarr_image)["z"]
    assert result["status"] == "failed"
    assert str(chunk) in result["message"]


@pytest.mark.parametrize(("voxel_size", "level"), [(0.00052, 0), (0.00049, 0), (0.00098, 1), (0.01, 1)])
def test_the_level_is_the_one_nearest_to_the_training_images(
    project: Path, tmp_path: Path, voxel_size: float, level: int
) -> None:
    pytest.importorskip("zarr", reason="zarr needs Python 3.11")
    array = np.random.default_rng(6).integers(0, 400, (16, 16, 16)).astype(np.uint8)
    image = save(project / "z.ome.zarr", [array, array[::2, ::2, ::2]], "zyx", "0.5")
    model = Model.load(project / "models/model.pt")
    plan = dataclasses.replace(model.plan, voxel_size=(voxel_size,) * 3)
    dataclasses.replace(model, plan=plan).save(project / "models/model.pt")
    segment(project, tmp_path, 1, image)
    assert OmeZarrSource(tmp_path / "z.ome.zarr").geometry.shape == (16 // 2**level,) * 3


def test_a_large_image_goes_on_after_an_interrupt(
    project: Path, zarr_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done, told = tmp_path / "out", list[Any](), list[tuple[str, float]]()
    written = growing_labels.GrowingLabels.write

    def write(self: Any, box: Any, labels: Any) -> Any:
        if len(done) == 2:
            done.append(None)
            raise KeyboardInterrupt
        done.append(box)
        return written(self, box, labels)

    monkeypatch.setattr(growing_labels.GrowingLabels, "write", write)
    tasks = plan_tasks([zarr_image], project, out)
    with pytest.raises(KeyboardInterrupt):
        segment_one(tasks[0])
    assert not (out / "z.ome.zarr").exists()
    result = segment_one(tasks[0], progress=lambda what, fraction: told.append((what, fraction)))
    assert result["status"] == "done"
    assert len(done) == len({str(box) for box in done}) == 5
    segmenting = [fraction for what, fraction in told if what == "segmenting"]
    assert segmenting[0] > 0.4
    assert segmenting[-1] == 1
    np.testing.assert_array_equal(OmeZarrSource(out / "z.ome.zarr").read()[0], expected(project, "z.ome.zarr"))


def test_an_image_with_other_channels_fails_alone(project: Path, tmp_path: Path) -> None:
    write_image(project / "c.nii.gz", (*SHAPE, 2))
    results = segment(project, tmp_path / "out", 1, project / "a.nii.gz", project / "c.nii.gz")
    assert [result["status"] for result in results.values()] == ["done", "failed"]
    assert "2 channel(s), the model was trained on 1" in results["c"]["message"]


def test_what_cannot_be_segmented_is_refused_before_anything_is(project: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other = write_image(tmp_path / "a.nii.gz")
    for inputs, words in (
        ([tmp_path / "empty"], "no image in this folder"),
        ([tmp_path / "nowhere.nii"], "no such file"),
        ([project / "models/plan.json"], "no image"),
        ([project, other], "both are named 'a'"),
    ):
        with pytest.raises(InputError, match=words):
            plan_tasks(inputs, project, tmp_path / "out")
    with pytest.raises(InputError, match="no model"):
        plan_tasks([project], tmp_path / "empty", tmp_path / "out")
    for path in (project, project / "models", project / "models/model.pt"):
        assert model_file(path) == project / "models/model.pt"


def test_channels_and_images_in_a_file_are_found_by_any_of_their_paths(project: Path, tmp_path: Path) -> None:
    for channel in range(2):
        write_image(tmp_path / f"x_000{channel}.nii.gz")
    tasks = plan_tasks([tmp_path / "x_0001.nii.gz"], project, tmp_path / "out")
    assert [(task.image, task.out.name, len(task.files)) for task in tasks] == [("x", "x.nii.gz", 2)]
    array = np.zeros((2, *SHAPE[::-1]), np.uint8)
    tifffile.imwrite(tmp_path / "y.tif", array, ome=True, metadata={"axes": "TZYX"})
    tasks = plan_tasks([tmp_path / "y.tif"], project, tmp_path / "out")
    assert [task.image for task in tasks] == ["y_t0000", "y_t0001"]
    tasks = plan_tasks([tmp_path / "y.tif/t0001"], project, tmp_path / "out")
    assert [(task.image, task.out.name) for task in tasks] == [("y_t0001", "y_t0001.tif")]


COMMAND = [sys.executable, str(APP), "segment"]


@pytest.mark.slow
def test_the_command_with_two_processes(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [*COMMAND, str(project), "--model", str(project), "--out", str(out), "--workers", "2"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    results = {result["image"]: result for result in json.loads(done.stdout)}
    assert [results[name]["status"] for name in "adt"] == ["done", "failed", "done"]
    np.testing.assert_array_equal(np.asarray(nibabel.load(out / "a.nii.gz").dataobj), expected(project, "a.nii.gz"))
    (project / "d.nii.gz").unlink()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == f"{out}: 2 up to date"
    assert subprocess.run([*command[:-4], "--out"], capture_output=True).returncode == 2


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="Ctrl-C goes to all processes of a terminal")
def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(project: Path, tmp_path: Path) -> None:
    (project / "d.nii.gz").unlink()
    publish(project / "models", LabelScheme(("inside", "tubule"), "outside"), width=16)
    # Segmenting this takes many minutes.
    write_image(project / "z.nii.gz", (400, 400, 120))
    command = [*COMMAND, str(project), "--model", str(project), "--out", str(tmp_path / "out"), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        end = time.monotonic() + 600
        while not all((tmp_path / f"out/{name}.json").exists() for name in "at"):
            assert time.monotonic() < end
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        # Returns only when no process has the pipe any more.
        said = process.stdout.read() if process.stdout else b""
        assert process.wait() == 130, said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "a.nii.gz", "t.json", "t.ome.tif"]
