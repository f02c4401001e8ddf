"""The command ``measure`` as a person runs it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import trimesh

import shapes
from lib.commands import measurement
from lib.commands.measurement import measure_and_report
from lib.core.errors import InputError
from lib.core.measurement.measures import MeasuringOptions
from project import APP
from saved_volumes import save_nifti
from serving import scaled

AFFINE = scaled(0.5, 0.5, 1)


def labels_of(*values: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Return a torus and two balls of values."""
    at = shapes.places(40, (0.5, 0.5, 1))
    found = np.zeros(at.shape[1:], np.uint8)
    found[shapes.torus(at, 10, 4)] = values[0]
    for value, place in zip(values[1:], ([0, 0, 12], [0, 0, -12]), strict=False):
        found[shapes.ball(at - np.reshape(place, (3, 1, 1, 1)), 4)] = value
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with two predictions: one has both classes, the other only the first."""
    folder = tmp_path / "project"
    (folder / "labels/prediction").mkdir(parents=True)
    for name, values in (("mouse", (1, 2, 2)), ("rat", (1,))):
        labels = labels_of(*values)
        # Slicer may have turned the label map.
        save_nifti(folder / f"labels/prediction/{name}.nii.gz", labels[::-1], AFFINE @ flip(labels.shape[0]))
        info = {"label_names": {"tube (predicted)": 1, "cell / nucleus (predicted)": 2}}
        (folder / f"labels/prediction/{name}.json").write_text(json.dumps(info), encoding="utf-8")
        image = np.stack([100 * labels, 7 + 0 * labels], axis=-1)[..., None, :].astype(np.int16)
        nifti = nibabel.Nifti1Image(image, AFFINE)
        nifti.header.set_intent("vector")
        nifti.header.set_xyzt_units("mm" if name == "mouse" else "unknown")
        nibabel.save(nifti, folder / f"{name}.nii.gz")
    return folder


def flip(length: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return the affine that turns the first axis round."""
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = length - 1
    return affine


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(APP), "measure", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_project(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(project, "--out", out, "--tubes", "tube", "--surfaces", "stl")
    assert done.returncode == 0, done.stderr
    assert "mm³" in done.stdout
    assert done.stderr.startswith("Note: ")
    assert "rat.nii.gz: the file states no unit of length" in done.stderr
    mouse, mouse_cell, rat, rat_cell = rows(out / "classes.csv")
    assert [row["objects"] for row in (mouse, mouse_cell, rat, rat_cell)] == ["1", "2", "1", "0"]
    assert float(mouse["volume_mm3"]) == pytest.approx(2 * np.pi**2 * 10 * 16, rel=0.03)
    assert float(mouse["length_mm"]) == pytest.approx(2 * np.pi * 10, rel=0.03)
    assert (mouse_cell["class"], mouse_cell["length_mm"]) == ("cell / nucleus", "")
    assert (float(mouse_cell["mean_intensity_0"]), float(mouse_cell["mean_intensity_1"])) == (200, 7)
    assert (mouse["notes"], rat_cell["voxels"], rat_cell["centroid_l_mm"]) == ("", "0", "")
    assert "no voxel of this class" in rat_cell["notes"]
    assert "states no unit" in rat_cell["notes"]
    assert "states no unit" in rat["notes"]
    assert {row["unit"] for row in rows(out / "columns.csv")} == {"", "mm", "mm²", "mm³"}

    objects = rows(out / "objects.csv")
    assert [(row["volume"], row["class"], row["object"]) for row in objects] == [
        ("mouse", "tube", "1"),
        ("mouse", "cell / nucleus", "1"),
        ("mouse", "cell / nucleus", "2"),
        ("rat", "tube", "1"),
    ]
    # The balls lie 24 mm apart along the last axis, which points upwards.
    apart = abs(float(objects[1]["centroid_s_mm"]) - float(objects[2]["centroid_s_mm"]))
    assert apart == pytest.approx(24, abs=0.2)
    described = {row["column"] for row in rows(out / "columns.csv")}
    for table in (objects, [mouse]):
        assert {
            key.replace("intensity_0", "intensity_C").replace("intensity_1", "intensity_C") for key in table[0]
        } <= (described)

    names = ["mouse_1_tube.stl", "mouse_2_cell_nucleus.stl", "rat_1_tube.stl"]
    assert sorted(path.name for path in (out / "surfaces").iterdir()) == names
    tube = trimesh.load(out / "surfaces/mouse_1_tube.stl")
    assert tube.is_watertight
    assert tube.area == pytest.approx(float(mouse["surface_mm2"]), rel=1e-4)
    # In LPS, the middle of the volume has the opposite signs along its first two axes.
    middle = AFFINE @ [*((np.array(labels_of(1).shape) - 1) / 2), 1]
    assert tube.centroid == pytest.approx([-middle[0], -middle[1], middle[2]], abs=0.5)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    folder.mkdir()
    save_nifti(folder / "mouse.nii.gz", labels_of(1, 2, 2), AFFINE)
    return folder


def measured(labels: Path, out: Path, images: Path | None = None, classes: str = "", **options: object) -> bool:
    return measure_and_report(labels, images, out, classes, MeasuringOptions(**options), None, False)  # type: ignore[arg-type]


def test_a_folder_of_label_maps_without_names(maps: Path, tmp_path: Path) -> None:
    assert measured(maps, tmp_path / "out")
    assert [row["class"] for row in rows(tmp_path / "out/classes.csv")] == ["1", "2"]
    assert "mean_intensity_0" not in rows(tmp_path / "out/classes.csv")[0]


def test_names_that_segment_stored(maps: Path, tmp_path: Path) -> None:
    record = {"made_from": {}, "result": {"voxels": {"outside": 5, "tube": 3, "cell": 2}}}
    (maps / "mouse.json").write_text(json.dumps(record), encoding="utf-8")
    assert measured(maps, tmp_path / "out")
    assert [row["class"] for row in rows(tmp_path / "out/classes.csv")] == ["tube", "cell"]


@pytest.mark.parametrize("content", ["", "[]", '{"result": 3}', '{"label_names": [1]}', '{"label_names": {"a": "x"}}'])
def test_damaged_records_give_no_names(content: str, maps: Path, tmp_path: Path) -> None:
    (maps / "mouse.json").write_text(content, encoding="utf-8")
    assert measured(maps, tmp_path / "out")
    assert [row["class"] for row in rows(tmp_path / "out/classes.csv")] == ["1", "2"]


def test_one_label_map_with_an_image_of_another_name(maps: Path, tmp_path: Path) -> None:
    save_nifti(tmp_path / "image.nii.gz", labels_of(1, 2, 2).astype(np.int16) * 10, AFFINE)
    assert measured(maps / "mouse.nii.gz", tmp_path / "out", tmp_path / "image.nii.gz", "tube,cell")
    assert [float(row["mean_intensity_0"]) for row in rows(tmp_path / "out/classes.csv")] == [10, 20]


def test_faults_of_some_volumes(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    labels = labels_of(1, 2, 2)
    (maps / "broken.nii.gz").write_bytes(b"x")
    save_nifti(maps / "empty.nii.gz", labels * 0, AFFINE)
    save_nifti(maps / "elsewhere.nii.gz", labels, AFFINE)
    save_nifti(maps / "twice.nii.gz", labels, AFFINE)
    save_nifti(maps / "twice.nii", labels, AFFINE)
    for name in ("broken", "empty", "twice"):
        save_nifti(images / f"{name}.nii.gz", labels, AFFINE)
    save_nifti(images / "elsewhere.nii.gz", labels[:-1], AFFINE)
    assert not measured(maps, tmp_path / "out", images)
    said = capsys.readouterr().err
    for words in (
        "broken.nii.gz: ",
        "empty.nii.gz: all voxels are 0",
        "elsewhere.nii.gz: the label map",
        "mouse: no image of this name",
        "twice.nii.gz have the same name",
    ):
        assert words in said
    assert [row["volume"] for row in rows(tmp_path / "out/classes.csv")] == ["mouse", "mouse"]


@pytest.mark.parametrize(
    ("labels", "images", "classes", "tubes", "words"),
    [
        ("gone", None, "", "", "gone: no such file or folder"),
        ("nothing", None, "", "", "nothing: no label map in this folder"),
        ("untrained", None, "", "", "no volume of this project has a prediction"),
        ("maps", "gone", "", "", "--images .*gone: no such file"),
        ("maps", None, "tube,cell", "vessel", "--tubes: there is no class 'vessel'; the classes are cell, tube"),
        ("maps", None, "tube,,cell", "", "an empty class name"),
    ],
)
def test_wrong_input(
    labels: str, images: str | None, classes: str, tubes: str, words: str, maps: Path, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "untrained/labels/final").mkdir(parents=True)
    with pytest.raises(InputError, match=words):
        measured(
            tmp_path / labels,
            tmp_path / "out",
            tmp_path / images if images else None,
            classes,
            tubes=(tubes,) if tubes else (),
        )
    assert not (tmp_path / "out").exists()


def test_a_class_that_is_gone_leaves_no_old_surface(maps: Path, tmp_path: Path) -> None:
    for values in ((1, 2, 2), (1,)):
        save_nifti(maps / "mouse.nii.gz", labels_of(*values), AFFINE)
        assert measure_and_report(maps, None, tmp_path / "out", "tube,cell", MeasuringOptions(), "ply", False)
        names = [path.name for path in (tmp_path / "out/surfaces").iterdir()]
        assert len(names) == (2 if len(values) == 3 else 1)


def test_json(maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure_and_report(maps, None, tmp_path / "out", "tube,cell", MeasuringOptions(), None, True)
    found = json.loads(capsys.readouterr().out)
    cell = found["volumes"]["mouse"]["classes"]["cell"]
    assert (cell["objects"], len(cell["each"]), found["faults"]) == (2, 2, [])
    assert cell["whole"]["voxels"] == int((labels_of(1, 2, 2) == 2).sum())


def test_a_full_disk_is_said(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(measurement, "write_tables", full)
    with pytest.raises(InputError, match="No space left on device"):
        measured(maps, tmp_path / "out")
