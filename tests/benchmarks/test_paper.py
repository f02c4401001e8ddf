"""The paper's whole training, in pieces: at small size, with few iterations, on the CPU."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.paper import KEYS, go_on, measure
from benchmarks.timing import BenchmarkOptions, SideError
from dense_volumes import write_balls
from experiments.reproduce import ReproduceOptions

STEPS = 40


@pytest.fixture
def options(tmp_path: Path) -> ReproduceOptions:
    write_balls(tmp_path / "balls")
    return ReproduceOptions(("figure3",), "small", tmp_path / "balls", "", None, 1, STEPS, None, 1, None, tmp_path)


def test_training_goes_on_until_it_has_an_iou(options: ReproduceOptions) -> None:
    assert go_on(replace(options, minutes=0), "c") is None
    # Some steps, and no more: the time is looked at after every ten.
    piece = None
    while piece is None:
        piece = go_on(replace(options, minutes=0.01), "c")
    assert 10 <= piece["steps"] < STEPS
    assert piece["iou"] is None
    assert piece["projected_seconds"] == pytest.approx(piece["seconds"] * STEPS / piece["steps"])
    assert f"{piece['steps']} of {STEPS} iterations" in piece["note"]
    whole = go_on(options, "c")
    assert whole is not None
    assert whole["steps"] == whole["all_steps"] == STEPS
    assert whole["seconds"] == whole["projected_seconds"] > piece["seconds"]
    assert whole["iou"] is not None
    assert 0 <= whole["iou"] <= 1
    # What is finished isn't repeated.
    assert go_on(options, "c") == whole


def test_a_failure_is_named(options: ReproduceOptions) -> None:
    with pytest.raises(SideError, match=r"paper\.iterations: .*nowhere/images: no such folder"):
        go_on(replace(options, folder=Path("nowhere")), "c")


def test_it_is_left_out_without_a_gpu() -> None:
    said: list[str] = []
    assert not list(measure(KEYS, BenchmarkOptions("cpu"), said.append))
    assert said == ["paper.iterations: left out, it needs a GPU\n"]
