"""What a training run learns, from which voxels, and what it refuses; minutes of training would be a benchmark."""

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ball import MACHINE, SCHEME, SHAPE, case, run, truth, weights
from devices import on_each_device
from lib.core.annotation.slices import annotated_slices
from lib.core.data import training_volumes
from lib.core.errors import InputError, Stopped
from lib.core.inference.segmenter import Segmenter
from lib.core.metrics import confusion, iou_per_class
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.training import run as training
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.report import TrainingReport
from lib.core.training.run import train
from lib.core.training.score import Score

pytestmark = pytest.mark.slow


@on_each_device
def test_it_learns_and_the_published_model_segments_the_rest_of_the_volume(tmp_path: Path, device: str) -> None:
    """Scored on the voxels that were never annotated, and on a volume without annotation."""
    reports: list[dict[str, Any]] = []
    machine = replace(MACHINE, device=device)
    final = run(tmp_path, [case()], reports, machine, max_epochs=4)
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
    assert reports[-1]["loss"] < 0.7 * reports[0]["loss"]
    assert final["finished"]
    assert final["published"]
    assert final["metric"] == "validation IoU"
    model = ModelFolder(tmp_path).load(SCHEME)
    assert model.score == final["best_metric"]
    for centre, annotated in (((6, 6, 6), True), ((8, 5, 6), False)):
        unseen = truth(centre)
        if annotated:
            unseen[case().annotation != 0] = 0
        prediction = Segmenter(model.network, model.plan).segment(case(centre=centre).volume, machine)
        assert iou_per_class(confusion(prediction, unseen, SCHEME), SCHEME)["ball"] > 0.5


@pytest.mark.usefixtures("short_epochs")
def test_a_seed_repeats_a_run(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        run(tmp_path / name, [case()], max_epochs=1, seed=seed)
    for name in weights(tmp_path / "one"):
        torch.testing.assert_close(weights(tmp_path / "one")[name], weights(tmp_path / "same")[name])
    assert not torch.equal(weights(tmp_path / "one")["classify.weight"], weights(tmp_path / "other")["classify.weight"])


@pytest.mark.usefixtures("short_epochs")
def test_unpainted_voxels_of_annotated_slices_are_background_if_asked(tmp_path: Path) -> None:
    """Painting only the ball then has the same effect as painting whole slices."""
    planes = case(slices=[(axis, index) for axis in range(3) for index in (4, 8)])
    annotation = planes.annotation.copy()
    annotation[0, 0, 0:3] = 1
    whole = TrainingCase("a", planes.volume, annotation)
    ball = TrainingCase("a", planes.volume, np.where(annotation == 1, 1, 0).astype(np.uint8))
    assert annotated_slices(ball.annotation) == annotated_slices(whole.annotation)
    with pytest.raises(InputError, match="only the class 'ball'"):
        run(tmp_path / "refused", [ball], max_epochs=1)
    painted = run(tmp_path / "painted", [whole], max_epochs=1)
    filled = run(tmp_path / "filled", [ball], max_epochs=1, unpainted="background")
    assert filled["score"] == painted["score"]
    for name, value in weights(tmp_path / "painted").items():
        torch.testing.assert_close(weights(tmp_path / "filled")[name], value, msg=name)
    plan = ModelFolder(tmp_path / "filled").load(SCHEME).plan
    assert plan.unpainted == "background"
    assert set(np.unique(ball.annotation)) == {0, 1}


def test_a_run_is_scored_often_at_first_and_then_at_an_interval() -> None:
    def scored(interval: int) -> list[int]:
        return [epoch for epoch in range(1, 40) if training.is_evaluated(epoch, interval)]

    assert scored(8) == [3, 6, 12, 20, 28, 36]
    assert scored(2) == list(range(2, 40, 2))
    assert scored(1) == list(range(1, 40))
    assert scored(100) == [3, 6, 12, 24]


@pytest.mark.parametrize(
    ("before", "epoch", "finished", "compared"),
    [
        (0, 3, False, False),
        (0, 3, True, True),
        (6, 7, True, True),
        (6, 8, False, True),
        (0, 12, False, True),
        (8, 12, True, False),
        (24, 31, False, False),
        (24, 48, False, True),
        (48, 127, False, False),
        (48, 128, True, True),
    ],
)
def test_statistics_are_compared_ever_more_rarely(before: int, epoch: int, finished: bool, compared: bool) -> None:
    assert training.is_compared(epoch, before, finished) == compared


class SlowScores:
    """A clock on which a training step takes a second, and a score many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds_of_score: float) -> None:
        self.now = 0.0
        score_network = training.score_network

        def scored(*arguments: Any) -> Score:
            self.now += seconds_of_score
            return score_network(*arguments)

        monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(training, "score_network", scored)

    def train(self, folder: Path, minutes: float, stop_after: float = math.inf) -> list[TrainingReport]:
        """Train; return the reports."""
        reports: list[TrainingReport] = []
        stop = self.now + stop_after

        def pass_a_second() -> None:
            self.now += 1
            if self.now > stop:
                raise Stopped

        options = TrainingOptions(max_epochs=1000, max_minutes=minutes)
        arguments = [case()], SCHEME, ModelFolder(folder), options, PlanOptions(width=2), MACHINE
        with suppress(Stopped):
            train(*arguments, reports.append, pass_a_second)
        return reports


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize("minutes", [2, 4])
def test_the_time_limit_includes_the_last_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float
) -> None:
    """Also if statistics are compared at the end."""
    *_, last = SlowScores(monkeypatch, 30).train(tmp_path, minutes)
    assert last["finished"]
    assert last["seconds"] == pytest.approx(60 * minutes, abs=5)


@pytest.mark.usefixtures("short_epochs")
def test_a_run_ends_with_a_score_that_leaves_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first score is made after epoch 3, and takes longer than what is left."""
    reports = SlowScores(monkeypatch, 55).train(tmp_path, 1)
    assert [report["epoch"] for report in reports] == [1, 2, 3]
    assert reports[-1]["finished"]


@pytest.mark.usefixtures("short_epochs")
def test_a_stopped_run_with_a_time_limit_keeps_the_same_time_for_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SlowScores(monkeypatch, 30)
    *_, before = clock.train(tmp_path, 4, stop_after=205)
    assert not before["finished"]
    first, *_, last = clock.train(tmp_path, 4)
    assert (first["run"], first["epoch"], last["finished"]) == (before["run"], before["epoch"] + 1, True)
    assert last["seconds"] == pytest.approx(240, abs=5)


def test_a_class_is_never_held_out_completely(tmp_path: Path) -> None:
    """Only one slice shows the ball; whatever the seed, it is trained on."""
    slices = [(0, 0), (0, 6), (1, 0), (1, 11), (2, 0), (2, 11)]
    for seed in range(6):
        folder = tmp_path / str(seed)
        run(folder, [case(slices=slices)], max_epochs=1, max_minutes=0.0001, seed=seed)
        assert (0, 6) in ModelFolder(folder).load(SCHEME).split.training["a"]


@pytest.mark.usefixtures("short_epochs")
def test_held_out_slices_stay_held_out_when_more_are_annotated(tmp_path: Path) -> None:
    run(tmp_path, [case()], max_epochs=1)
    first = ModelFolder(tmp_path).load(SCHEME).split
    more = [(axis, index) for axis in range(3) for index in (2, 4, 6, 8, 10)]
    run(tmp_path, [case(slices=more), case("b", (7, 6, 5))], max_epochs=1)
    second = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["split"]
    assert first.validation["a"]
    assert {tuple(place) for place in second["validation"]["a"]} >= set(first.validation["a"])
    assert {tuple(place) for place in second["training"]["a"]} >= set(first.training["a"])


@pytest.mark.usefixtures("short_epochs")
def test_too_few_slices_to_hold_any_out_are_reported_as_training_iou(tmp_path: Path) -> None:
    final = run(tmp_path, [case(slices=[(0, 6), (1, 6), (2, 6)])], max_epochs=1)
    assert final["metric"] == "training IoU"
    assert "too few annotated slices" in final["message"]


@pytest.mark.usefixtures("short_epochs")
def test_a_dense_annotation_is_scored_on_a_block_that_stays_held_out(tmp_path: Path) -> None:
    dense = case(slices=[(0, index) for index in range(12)])
    final = run(tmp_path, [dense], max_epochs=1)
    assert final["metric"] == "validation IoU"
    first = ModelFolder(tmp_path).load(SCHEME).split
    assert len(first.blocks["a"]) == 1
    run(tmp_path, [case("b", (7, 6, 5)), dense], max_epochs=1)
    second = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["split"]
    assert [tuple(block) for block in second["blocks"]["a"]] == first.blocks["a"]


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 1.5)])
def test_volumes_that_are_read_tile_by_tile_train_and_score_as_those_in_memory(
    tmp_path: Path, spacing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The case has slices that are held out, and strokes beside them."""
    painted = case(slices=[(axis, index) for axis in range(3) for index in (2, 5, 8)])
    annotation = painted.annotation.copy()
    annotation[11, 10, 9:12] = annotation[0, 0, 0] = 2
    given = TrainingCase("a", painted.volume, annotation)
    in_memory = run(tmp_path / "in memory", [given], max_epochs=2, spacing=spacing)
    monkeypatch.setattr(training_volumes, "HELD", 0)
    by_tile = run(tmp_path / "by tile", [given], max_epochs=2, spacing=spacing)
    assert by_tile["score"] == pytest.approx(in_memory["score"], abs=0.01)
    assert by_tile["loss"] == pytest.approx(in_memory["loss"], rel=1e-3)
    for name, value in weights(tmp_path / "in memory").items():
        exact = {"atol": 0, "rtol": 0} if spacing is None else {"atol": 1e-3, "rtol": 1e-3}
        torch.testing.assert_close(weights(tmp_path / "by tile")[name], value, **exact, msg=name)


@pytest.mark.usefixtures("short_epochs")
def test_only_human_paint_reaches_the_loss(tmp_path: Path) -> None:
    """Unlabelled voxels have no influence: two ground truths with the same paint give the same training."""
    painted = case()
    run(tmp_path / "one", [painted], max_epochs=1)
    other = TrainingCase(painted.id, painted.volume, painted.annotation.copy())
    run(tmp_path / "two", [other, TrainingCase("empty", case("x").volume, np.zeros(SHAPE, np.uint8))], max_epochs=1)
    for name, value in weights(tmp_path / "one").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value)


@pytest.mark.parametrize(
    ("cases", "named"),
    [
        ([], "nothing is annotated"),
        ([case(slices=[])], "nothing is annotated"),
        ([case(slices=[(0, 0)])], "only the class 'outside' is annotated.* paint some of ball"),
        ([case("a"), case("b", channels=2)], r"image 'b' has 2 channel\(s\), 'a' has 1"),
        ([case("a"), case("b"), case("a")], "'a' is the id of several cases"),
        (
            [TrainingCase("a", case().volume, 3 * case().annotation)],
            r"voxels of value 3; expected 0 .* to 2 \(outside\)",
        ),
    ],
)
def test_cases_that_cannot_be_trained_on_are_refused(tmp_path: Path, cases: list[TrainingCase], named: str) -> None:
    with pytest.raises(InputError, match=named):
        run(tmp_path, cases, max_epochs=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [np.ones((1, *SHAPE), np.uint8), np.ones(SHAPE)])
def test_an_annotation_has_a_value_of_8_bits_for_each_voxel(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"image 'a' is \w+ of shape \(.*\); expected uint8 of shape \(12, 12, 12\)"):
        TrainingCase("a", case().volume, wrong)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"max_epochs": 0}, "max_epochs: 0"), ({"max_minutes": -1}, "max_minutes: -1"), ({"start": "new"}, "'new'")],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        TrainingOptions(**options)
