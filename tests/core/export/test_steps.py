"""The exported steps before the network do what *Run* does, also for unusual images."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib.core.data.preparation import prepare_image
from lib.core.export.frozen import FrozenNetwork
from lib.core.export.onnx_model import RUNNER
from lib.core.export.preprocessing import preprocessing
from lib.core.export.segmentation import Segmentation
from lib.core.labels import LabelScheme
from lib.core.model.model import build_network
from lib.core.plan.plan import Plan
from lib.core.volumes.volume import Volume

PLAN = Plan(LabelScheme(("ball",), "outside"), 1, None, 2, (132, 132, 116), statistics="running")
SHAPE = (12, 11, 10)
RANDOM = np.random.default_rng(0)


def few_bright() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[3, 3, 3:5] = 200
    return array


def mostly(value: int, *others: int) -> np.ndarray:
    """An image of few values, of which one makes up more than half."""
    return np.where(RANDOM.random(SHAPE) < 0.6, value, RANDOM.choice(others, SHAPE)).astype(np.int16)


IMAGES: dict[str, Callable[[], np.ndarray]] = {
    "noise": lambda: RANDOM.normal(0, 1e6, SHAPE),
    "integers of 64 bits": lambda: RANDOM.integers(-(2**62), 2**62, SHAPE),
    "constant": lambda: np.full(SHAPE, 7, np.float32),
    "few bright voxels": few_bright,
    "masked below": lambda: mostly(0, 500, 501, 502),
    "masked far below": lambda: mostly(-30000, 500, 700),
    "masked above": lambda: mostly(900, 500, 501, 502),
    "two values": lambda: mostly(0, 1),
    "more than are sampled": lambda: RANDOM.gamma(2, 50, (170, 161, 160)).astype(np.uint16),
}


@pytest.fixture
def steps(tmp_path: Path) -> Callable[[Plan], tuple[Any, Any]]:
    """Return the steps of the runner and of TorchScript by a plan."""

    def of(plan: Plan) -> tuple[Any, Any]:
        facts = preprocessing(plan)
        (tmp_path / "preprocessing.json").write_text(json.dumps(facts))
        shutil.copyfile(RUNNER, tmp_path / "run.py")
        frozen = FrozenNetwork(build_network(plan).eval(), plan.architecture.tiles)
        runner = runpy.run_path(str(tmp_path / "run.py"))
        runner["FACTS"].update(json.loads((tmp_path / "preprocessing.json").read_text()))
        return runner, torch.jit.script(Segmentation(frozen, facts))

    return of


@pytest.mark.parametrize("kind", IMAGES)
def test_intensities_are_scaled_as_in_run(kind: str, steps: Callable[[Plan], tuple[Any, Any]]) -> None:
    array = IMAGES[kind]()[None]
    expected, _ = prepare_image(Volume(array, np.eye(4)), PLAN)
    runner, script = steps(PLAN)
    np.testing.assert_allclose(runner["scaled"](array[0]), expected[0], atol=1e-6)
    found = script.prepare(torch.as_tensor(array), [1.0, 1.0, 1.0])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("spacing", [(2.5, 1.0, 0.4), (0.5, 0.7, 4.0), (3.0, 3.0, 3.0), (30.0, 1.0, 1.0)])
def test_images_are_resampled_as_in_run(
    spacing: tuple[float, float, float], steps: Callable[[Plan], tuple[Any, Any]]
) -> None:
    plan = replace(PLAN, spacing=spacing)
    array = RANDOM.normal(0, 1, (1, *SHAPE))
    expected, grid = prepare_image(Volume(array, np.diag([0.8, 1.1, 1.6, 1])), plan)
    assert not grid.is_native
    runner, script = steps(plan)
    found = runner["resampled"](runner["scaled"](array[0])[None], list(grid.working), True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(script.prepare(torch.as_tensor(array), [0.8, 1.1, 1.6]), expected, atol=1e-5)
    back = grid.back(expected)
    np.testing.assert_allclose(runner["resampled"](expected.numpy(), list(SHAPE), False), back, atol=1e-5)
    np.testing.assert_allclose(script.back(expected, list(SHAPE)), back, atol=1e-5)


def test_images_that_cannot_be_meant_are_refused(steps: Callable[[Plan], tuple[Any, Any]]) -> None:
    runner, script = steps(PLAN)
    missing = np.ones((1, *SHAPE), np.float32)
    missing[0, 3, 3, 3] = np.nan
    for array, words in ((np.ones((2, *SHAPE), np.float32), "channel"), (missing, "finite")):
        with pytest.raises(SystemExit, match=words):
            runner["segment"](array, [1, 1, 1], None)
        with pytest.raises(torch.jit.Error, match=words):
            script.segment(torch.as_tensor(array), [1.0, 1.0, 1.0])
