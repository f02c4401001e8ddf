"""The examples of the six public functions, and the script in docs/library.md, run and give good results."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.annotation.suggestion import suggest_slices
from lib.core.evaluation import evaluate
from lib.core.inference.segmenter import Segmenter
from lib.core.measurement.measures import measure
from lib.core.training.run import train
from lib.core.volumes.reading import read_volume
from project import APP, PROJECT

FUNCTIONS = (read_volume, train, Segmenter.segment, suggest_slices, evaluate, measure)
"""In the order of their story: each example uses files that earlier ones made, and no names."""


def iou(prediction: Path) -> float:
    """Compare with the ellipsoid that the examples make, from its definition in millimetres."""
    x, y, z = np.meshgrid(np.arange(40) / 2, np.arange(40) / 2, np.arange(24.0), indexing="ij")
    cell = np.linalg.norm([x - 10, y - 9, z - 12], axis=0) < 6
    found = np.asarray(nibabel.load(prediction).dataobj) == 1
    return np.count_nonzero(found & cell) / np.count_nonzero(found | cell)


@pytest.mark.slow
def test_the_examples_of_the_six_functions_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner, said = doctest.DocTestRunner(), list[str]()
    for function in FUNCTIONS:
        (example,) = doctest.DocTestFinder(recurse=False).find(function, function.__qualname__, globs={})
        assert example.examples, function
        runner.run(example, out=said.append)
    assert not runner.summarize(verbose=False).failed, "".join(said)
    assert iou(tmp_path / "prediction.nii.gz") > 0.8


@pytest.mark.slow
def test_the_script_of_the_page_runs(tmp_path):
    page = (PROJECT / "docs" / "library.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "story.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(APP)}
    done = subprocess.run(
        [sys.executable, "story.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, published, *suggested, scores = done.stdout.splitlines()
    assert first == "1 channel of (40, 40, 24) voxels, (0.5, 0.5, 1.0) mm each"
    assert "published with" in published
    assert len(suggested) == 3
    printed = re.fullmatch(r"IoU (0\.\d+), surfaces \d\.\d\d mm apart", scores)
    actual = iou(tmp_path / "story" / "prediction.nii.gz")
    assert actual > 0.8
    assert float(printed[1]) == pytest.approx(actual, abs=0.001)


def test_the_page_names_the_six_functions():
    page = (PROJECT / "docs" / "library.md").read_text(encoding="utf-8")
    for function in FUNCTIONS:
        path = f"apps/sparse_unet3d/{function.__module__.replace('.', '/')}.py"
        assert f"[`{function.__qualname__}`](../{path}#{function.__module__}.{function.__qualname__})" in page
        assert (PROJECT / path).is_file()
