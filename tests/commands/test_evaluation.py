"""The command ``evaluate`` as a person runs it, with the scores counted again."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lib.commands.evaluation import run_evaluation
from lib.core.errors import InputError
from painted import structures
from project import APP
from saved_volumes import save_nifti
from serving import scaled

NAMES = ["a", "b"]


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Predictions and labels of two volumes, and a broken prediction."""
    for folder in ("predictions", "labels"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate(NAMES):
        label = structures((20, 16, 12), seed) % 3
        save_nifti(tmp_path / f"labels/{name}.nii.gz", label, scaled(1, 1, 2))
        save_nifti(tmp_path / f"predictions/{name}.nii", np.roll(label, seed + 1, 0), scaled(1, 1, 2))
    save_nifti(tmp_path / "labels/broken.nii.gz", label, scaled(1, 1, 2))
    (tmp_path / "predictions/broken.nii.gz").write_bytes(b"x")
    return tmp_path


def iou(name: str, value: int) -> float:
    label = structures((20, 16, 12), NAMES.index(name)) % 3
    one, other = np.roll(label, NAMES.index(name) + 1, 0) == value, label == value
    return float((one & other).sum() / (one | other).sum())


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(APP), "evaluate", "predictions", "labels", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_json_alone_on_standard_output_and_csv(maps: Path) -> None:
    done = run(maps, "--json", "--csv", "scores.csv", "--classes", "inside,tubule")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert (list(report["volumes"]), list(report["mean"])) == (NAMES, ["inside", "tubule"])
    assert "predictions/broken.nii.gz: " in report["faults"][0]
    assert done.stderr == f"{report['faults'][0]}\n"
    for value, of in enumerate(("inside", "tubule"), start=1):
        for name in NAMES:
            assert report["volumes"][name][of]["iou"] == iou(name, value)
        assert report["mean"][of]["iou"] == pytest.approx(np.mean([iou(name, value) for name in NAMES]))
    with (maps / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["volume"], row["class"]) for row in rows] == [
        (name, of) for name in (*NAMES, "mean") for of in ("inside", "tubule")
    ]
    assert float(rows[0]["IoU"]) == iou("a", 1)
    assert float(rows[0]["HD95 (mm)"]) == report["volumes"]["a"]["inside"]["hd95_mm"]


@pytest.mark.slow
def test_help_and_wrong_input(maps: Path) -> None:
    assert "evaluate predictions/ truth/" in " ".join(run(maps, "--help").stdout.split())
    done = run(maps, "--ignore", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--ignore 0: name the classes by --classes" in done.stderr


def test_table(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (maps / "predictions/broken.nii.gz").unlink()
    (maps / "labels/broken.nii.gz").unlink()
    # Only one of the volumes has this class.
    label = np.zeros((20, 16, 12), np.uint8)
    label[3:5, 3:5, 3:5] = 7
    save_nifti(maps / "labels/b.nii.gz", label, scaled(1, 1, 2))
    assert run_evaluation(maps / "predictions", maps / "labels", None, False, "", None)
    said = capsys.readouterr()
    rows = [row for line in said.out.splitlines()[3:] if (row := line.replace("─", " ").split())]
    assert rows[0][:2] == ["a", "1"]
    assert rows[0][2] == f"{iou('a', 1):.3f}"
    # Volume a has no voxel of class 7: empty, and no voxels.
    assert rows[2] == ["7", "0", "0", "0"]
    # Nothing predicts class 7 in b: overlap 0, and no distances.
    assert rows[5] == ["7", "0.000", "0.000", "0", "8", "0"]
    assert said.err == ""


def test_without_a_file_for_the_csv(maps: Path) -> None:
    (maps / "file").touch()
    with pytest.raises(InputError, match=r"--csv .*file/x\.csv: can't be written"):
        run_evaluation(maps / "predictions", maps / "labels", maps / "file/x.csv", False, "", None)
