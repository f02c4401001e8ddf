import importlib
import itertools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from benchmarks import learning, time_to_iou
from benchmarks.__main__ import _describe
from benchmarks.bars import describe_bars, standings
from benchmarks.learners import LEARNERS
from benchmarks.learning import Clock, Task, Trial, read_task, score, time_to_level
from benchmarks.picture import draw_curves, draw_picture
from benchmarks.results import machine, merge_result, read_results_of
from benchmarks.time_to_iou import KEYS, comparison, curve_entry
from benchmarks.timing import BenchmarkOptions, Side, measure, select
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.training.cases import TrainingCase
from lib.core.volumes.volume import Volume

CLASSES = ("inside", "wall")
SHAPE = (40, 36, 32)


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three volumes of two channels: a ball inside a wall, dark and bright."""
    folder = tmp_path_factory.mktemp("balls")
    generator = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(3):
        centre = np.array(SHAPE) / 2 + generator.uniform(-3, 3, size=3)
        distance = np.linalg.norm(np.indices(SHAPE) - centre[:, None, None, None], axis=0)
        truth = np.select([distance < 7, distance < 12], [1, 2], 0).astype(np.uint8)
        grey = np.stack([100.0 * (truth == 1), 50.0 * truth], axis=-1)
        image = nibabel.Nifti1Image(
            (grey + generator.normal(0, 5, grey.shape))[:, :, :, None].astype(np.float32), np.eye(4)
        )
        image.header.set_intent("vector")
        nibabel.save(image, folder / "images" / f"ball_{number}.nii")
        nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), folder / "labels" / f"ball_{number}.nii")
    return folder


def test_time_to_a_level_on_steps_and_on_lines() -> None:
    curve = [(10.0, 0.2), (20.0, 0.6), (40.0, 0.8), (50.0, 0.5), (60.0, 0.9)]
    assert time_to_level(curve, 0.7, steps=True) == 40.0
    assert time_to_level(curve, 0.7, steps=False) == pytest.approx(30.0)
    assert time_to_level(curve, 0.8, steps=False) == pytest.approx(40.0)
    assert time_to_level(curve, 0.1, steps=False) == 10.0
    assert time_to_level(curve, 0.95, steps=True) is None


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass on a clock that stands still otherwise."""
    now = 100.0

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    return later


def test_clock_stands_still_while_paused(pass_time: Callable[[float], None]) -> None:
    clock = Clock(before=5.0)
    with clock.paused():
        pass_time(0.25)
    assert clock.seconds == 5.0
    pass_time(0.5)
    assert clock.seconds == 5.5


def made_up_task(generator: np.random.Generator) -> Task:
    scheme = LabelScheme(CLASSES, "outside")
    cases, unseen = [], []
    for number in range(2):
        truth = generator.integers(1, 4, (8, 7, 6)).astype(np.uint8)
        painted = generator.random(truth.shape) < 0.3
        volume = Volume(np.zeros((1, *truth.shape), dtype=np.float32), np.eye(4), f"{number}")
        cases.append(TrainingCase(str(number), volume, np.where(painted, truth, 0).astype(np.uint8)))
        unseen.append(np.where(painted, 0, truth).astype(np.uint8))
    return Task(scheme, tuple(cases), tuple(unseen))


def test_score_counts_unpainted_voxels_of_all_volumes_together() -> None:
    generator = np.random.default_rng(1)
    task = made_up_task(generator)
    predictions = {case.id: generator.integers(0, 3, case.annotation.shape).astype(np.uint8) for case in task.cases}
    both, either = [0, 0, 0], [0, 0, 0]
    for case, unseen in zip(task.cases, task.unseen, strict=True):
        for voxel in itertools.product(*map(range, unseen.shape)):
            if case.annotation[voxel]:
                assert unseen[voxel] == 0
                continue
            true, predicted = unseen[voxel] % 3, predictions[case.id][voxel]
            for value in (1, 2):
                both[value] += true == predicted == value
                either[value] += value in (true, predicted)
    expected = {name: both[value] / either[value] for value, name in enumerate(CLASSES, start=1)}
    assert score(task, lambda case: predictions[case.id]) == pytest.approx(expected)


def test_scoring_takes_a_bounded_share_of_the_time(pass_time: Callable[[float], None]) -> None:
    task = made_up_task(np.random.default_rng(2))
    told: list[float] = []

    def slow(case: TrainingCase) -> np.ndarray[Any, Any]:
        pass_time(5)
        return np.ones_like(case.annotation)

    trial = Trial(task, budget=100.0, before=0.0, progress=told.append)
    while trial.goes_on(slow):
        pass_time(1)
    # Two volumes take 10 seconds; 0.4 of the time between two scorings may go into them.
    assert [seconds for seconds, _ in trial.curve] == [10, 35, 60, 85, 100]
    assert told[-1] == 1.0
    assert told == sorted(set(told))


def test_task_is_the_same_each_time_and_hides_the_last_volume(balls: Path) -> None:
    first, second = (read_task(balls, CLASSES, seed=0) for _ in range(2))
    other = read_task(balls, CLASSES, seed=1)
    assert any((a.annotation != b.annotation).any() for a, b in zip(first.cases, other.cases, strict=True))
    assert [case.id for case in first.cases] == ["ball_0", "ball_1"]
    assert first.channels == 2
    for case, again, unseen in zip(first.cases, second.cases, first.unseen, strict=True):
        np.testing.assert_array_equal(case.annotation, again.annotation)
        assert set(np.unique(case.annotation)) == {0, 1, 2, 3}
        np.testing.assert_array_equal(case.annotation == 0, unseen > 0)


@pytest.mark.parametrize("name", LEARNERS)
def test_learner_is_scored_on_the_way_and_at_the_end(name: str, balls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not LEARNERS[name].is_installed:
        pytest.skip(f"{LEARNERS[name].package} isn't installed")
    monkeypatch.setattr(learning, "FIRST_CHECKPOINT", 1.0)
    module, function = LEARNERS[name].entry.split(":")
    learn = getattr(importlib.import_module(f"benchmarks.learners.{module}"), function)
    trial = Trial(read_task(balls, CLASSES, seed=0), budget=3.0, before=0.0, progress=lambda _: None)
    threads = torch.get_num_threads()
    learn(trial, seed=0)
    assert torch.get_num_threads() == threads
    assert trial.curve
    assert set(trial.iou) == set(CLASSES)
    assert all(0 <= iou <= 1 for _, iou in trial.curve)
    if LEARNERS[name].at_once:
        assert trial.curve[-1][1] > 0.5


def test_a_side_learns_from_the_start_of_its_software(balls: Path) -> None:
    options = {"learner": "ours", "folder": str(balls), "labels": CLASSES, "seconds": 0.1, "seed": 0}
    (runs,) = measure({"ours": Side("benchmarks.time_to_iou:prepare", options)}, 1, False, lambda _: None).values()
    # The time is over before the first step; one step is done nevertheless.
    assert all(seconds > 0.1 for seconds, _ in runs.facts["curve"])
    entry = curve_entry(None, runs.facts, 1.0, 3, "command")
    assert entry["final"] == [runs.facts["curve"][-1][1]]


def test_parts_with_a_level_are_named_by_key_or_group() -> None:
    assert select(KEYS, ["time_to_iou.phantom.0.70.nnunetv2"]) == ["time_to_iou.phantom.0.70.nnunetv2"]
    assert len(select(KEYS, ["time_to_iou.phantom.0.70"])) == len(LEARNERS) - 1
    assert len(select(KEYS, ["time_to_iou.phantom"])) == len(KEYS) // 5
    assert select(KEYS, ["time_to_iou.organoid.curve.ours"]) == ["time_to_iou.organoid.curve.ours"]


def made_up_entry(*curves: list[tuple[float, float]]) -> dict[str, Any]:
    entry: Any = None
    for curve in curves:
        facts = {"curve": curve, "iou": {"inside": 0.5, "wall": None}, "evaluation_seconds": 1.0}
        entry = curve_entry(entry, facts, 100.0, 3, "command")
    return entry


def test_runs_that_the_results_have_are_not_repeated(balls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_to_iou, "folder_of", lambda _: nullcontext(balls))
    key = "time_to_iou.phantom.curve.random_forest"
    there = {**made_up_entry([(0.5, 0.25)]), "budget_seconds": 3.0}
    options = BenchmarkOptions(repeats=2, minutes=0.05, known={key: there})
    ((_, entry),) = time_to_iou.measure([key], options, lambda _: None)
    assert (len(entry["curves"]), len(entry["iou"]), entry["slices"]) == (2, 2, 3)
    assert (entry["curves"][0], entry["iou"][0]) == (there["curves"][0], there["iou"][0])
    assert list(time_to_iou.measure([key], replace(options, repeats=1), lambda _: None)) == []
    for other in ({"minutes": 0.04}, {"slices": 2}, {"dense": True}):
        with pytest.raises(InputError, match=f"--resume: {key} is of other minutes or slices"):
            list(time_to_iou.measure([key], replace(options, **other), lambda _: None))


def test_results_of_another_machine_are_not_gone_on_with(tmp_path: Path) -> None:
    path, facts = tmp_path / "results.json", machine("cpu")
    assert read_results_of(path, facts) == {}
    merge_result(path, "cpu", facts, "key", made_up_entry([(1, 0.5)]))
    assert read_results_of(path, facts).keys() == {"key"}
    with pytest.raises(InputError, match="key was measured on another machine"):
        read_results_of(path, {**facts, "processor": "another"})


def test_dense_annotation_is_scored_on_the_voxels_beside_the_slices(balls: Path) -> None:
    sparse, dense = (read_task(balls, CLASSES, seed=0, dense=dense) for dense in (False, True))
    for few, everything, scored, same in zip(sparse.cases, dense.cases, sparse.unseen, dense.unseen, strict=True):
        assert everything.annotation.all()
        np.testing.assert_array_equal(scored, same)
        np.testing.assert_array_equal(few.annotation + scored, everything.annotation)


def test_standing_beside_the_best_tuned_alternative() -> None:
    """By hand: medians 0.8 and 0.7; ours has 0.7 after 20 and 60 s."""
    entries = {
        "ours": made_up_entry([(20, 0.75), (100, 0.7)], [(30, 0.5), (60, 0.9)]),
        "monai_basicunet_tuned": made_up_entry([(90, 0.65)], [(90, 0.75)]),
        "monai_dynunet_tuned": made_up_entry([(90, 0.1)], [(90, 0.2)]),
        "monai_dynunet": made_up_entry([(90, 0.99)], [(90, 0.99)]),
    }
    results = {f"time_to_iou.organoid.curve.{name}": entry for name, entry in entries.items()}
    (one,) = standings(results, "cpu")
    assert (one.peer, one.runs, one.budget, one.forgotten) == ("monai_basicunet_tuned", 2, 100.0, [])
    assert (one.ours, one.theirs, one.lowest, one.highest, one.seconds) == pytest.approx((0.8, 0.7, 0.05, 0.15, 40))
    assert list(standings(results, "cuda")) == []
    # The other learnt for another time; then ours never gets there, and forgets a class.
    entries["monai_basicunet_tuned"]["budget_seconds"] = 50.0
    entries["ours"]["iou"][1]["wall"] = 0.0
    results["time_to_iou.phantom.curve.ours"] = made_up_entry([(20, 0.05)])
    results["time_to_iou.phantom.curve.monai_dynunet_tuned"] = made_up_entry([(90, 0.1)])
    phantom, organoid, mean = describe_bars(results, "cpu")
    assert phantom.endswith("ours never has 0.100")
    assert "monai_dynunet_tuned 0.150" in organoid
    assert organoid.endswith("ours has 0.150 after 25 of 100 s; IoU 0: wall")
    assert mean == (
        "Mean over 2 data sets: ours is +0.300, and has the other's IoU after 62% of the time; never counts as 100 %"
    )


def test_comparison_at_a_level() -> None:
    ours = made_up_entry([(10, 0.6), (20, 0.75), (100, 0.9)], [(10, 0.6), (30, 0.75), (100, 0.8)])
    theirs = made_up_entry([(40, 0.6), (80, 0.8), (100, 0.85)], [(40, 0.5), (90, 0.7), (100, 0.75)])
    entry = comparison(ours, theirs, "monai_dynunet", "0.70", "command")
    assert (entry["ours"], entry["theirs"], entry["ratio"]) == pytest.approx((25.0, 75.0, 3.0))
    assert entry["spread"] == pytest.approx([3.0, 3.0])
    assert entry["final"] == {"ours": pytest.approx(0.85), "monai_dynunet": pytest.approx(0.8)}
    assert _describe(entry).endswith("3.00 times as fast (3.00 to 3.00), target 3")
    more = made_up_entry(*ours["curves"], [(99, 0.1)])
    assert comparison(more, theirs, "monai_dynunet", "0.70", "command")["runs"] == entry["runs"]


def test_a_level_that_is_not_reached_has_no_ratio(tmp_path: Path) -> None:
    ours, theirs = made_up_entry([(10, 0.6), (20, 0.75)]), made_up_entry([(40, 0.6)])
    entry = comparison(ours, theirs, "interpolation", "0.70", "command")
    assert (entry["ours"], entry["theirs"], entry["ratio"], entry["spread"]) == (20, None, None, None)
    assert "ours reaches it" in entry["note"]
    assert "interpolation does not reach it" in _describe(entry)
    reached = comparison(ours, ours, "interpolation", "0.70", "command")
    assert "target" not in _describe(reached)
    results = {"time_to_iou.phantom.0.70.interpolation": entry}
    draw_picture(results, tmp_path / "bars.png")
    assert not (tmp_path / "bars.png").exists()
    draw_picture({**results, "time_to_iou.organoid.0.70.interpolation": reached}, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").exists()


def test_picture_of_curves_has_a_panel_per_data_set(tmp_path: Path) -> None:
    results: dict[str, Any] = {}
    draw_curves(results, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    for data in ("phantom", "organoid"):
        for learner in LEARNERS:
            results[f"time_to_iou.{data}.curve.{learner}"] = made_up_entry([(10, 0.2), (90, 0.8)])
    draw_curves(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
