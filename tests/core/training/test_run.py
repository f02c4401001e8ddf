"""Training on an image of a small bright ball. Minutes of training would be a benchmark, not a test."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from devices import on_each_device
from lib.core.annotation.slices import AnnotatedSlice, annotated_slices, keep_slices
from lib.core.data import training_volumes
from lib.core.device.machine import Machine
from lib.core.errors import InputError, Stopped
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.training import publishing
from lib.core.training import run as training
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.run import train
from lib.core.training.score import Score
from lib.core.volumes.volume import Volume

pytestmark = pytest.mark.slow

SCHEME = LabelScheme(("ball",), "outside")
SHAPE = (12, 12, 12)
MACHINE = Machine("cpu", 4 * 10**9)


def truth(centre: Sequence[float], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.where(np.linalg.norm(x - np.asarray(centre), axis=-1) < 4, 1, 2).astype(np.uint8)


def case(name: str = "a", centre: Sequence[float] = (6, 6, 6), slices: Any = None, channels: int = 1) -> TrainingCase:
    dense = truth(centre)
    noise = np.random.default_rng(0).normal(0, 20, size=(channels, *SHAPE))
    image = (np.where(dense == 1, 200, 60) + noise).astype(np.float32)
    places = slices if slices is not None else [(axis, index) for axis in range(3) for index in (4, 6, 8)]
    return TrainingCase(
        name, Volume(image, np.eye(4)), keep_slices(dense, [AnnotatedSlice(*place) for place in places])
    )


def run(
    folder: Path,
    cases: Sequence[TrainingCase],
    reports: list[dict[str, Any]] | None = None,
    machine: Machine = MACHINE,
    **options: Any,
) -> dict[str, Any]:
    heard: list[dict[str, Any]] = reports if reports is not None else []
    decided = PlanOptions(
        width=options.pop("width", 2),
        unpainted=options.pop("unpainted", "unlabelled"),
        spacing=options.pop("spacing", None),
        statistics=options.pop("statistics", None),
    )
    return train(cases, SCHEME, ModelFolder(folder), TrainingOptions(**options), decided, machine, heard.append)


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of 3 steps instead of 10, for tests of a run's stages, not of what it learns."""
    monkeypatch.setattr(training, "make_plan", lambda *given: replace(make_plan(*given), steps_per_epoch=3))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["network"]  # type: ignore[no-any-return]


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

    assert scored(8) == [3, 6, 9, 13, 19, 27, 35]
    assert scored(1) == list(range(1, 40))
    assert scored(100) == [3, 6, 9, 13, 19, 28]


@pytest.mark.usefixtures("short_epochs")
def test_statistics_are_chosen_by_score_unless_a_person_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"mixed": [5] * 8, "volume": [9] * 8, "running": [7] * 8}
    scored: list[str] = []

    def score_by_statistics(network: Any, plan: Plan, *_: Any) -> Score:
        scored.append(plan.statistics)
        return Score(np.array([[[10, 0], [10 - found, found]] for found in right[plan.statistics]]), SCHEME)

    for module in (training, publishing):
        monkeypatch.setattr(module, "score_network", score_by_statistics)

    def chosen(cases: Sequence[TrainingCase], epochs: int, **options: Any) -> str:
        scored.clear()
        final = run(tmp_path, cases, max_epochs=epochs, **options)
        model = ModelFolder(tmp_path).load(SCHEME)
        assert final["score"] == model.score == sum(right[model.plan.statistics]) / 80
        return model.plan.statistics

    two = [case(), case("b", (8, 5, 6))]
    assert chosen(two, 9) == "volume"
    # All are compared after epochs 2 and 8.
    every, later = ["volume", "mixed", "running"], ["volume"]
    assert scored == ["mixed", "mixed", "volume", "running", *later * 5, *every, *later]

    # A new training begins with the choice of the last one, and goes back if that has become better.
    right["mixed"] = [10] * 8
    assert chosen(two, 2) == "mixed"
    assert scored == ["volume", "volume", "volume", "mixed", "running"]
    # Lower in two of three resamplings: not credible.
    right["mixed"] = [10] * 7 + [9]
    right["running"] = [10] * 8
    assert chosen(two, 2) == "mixed"
    # One volume can't show whether the averages of training suit others.
    right["mixed"] = [5] * 8
    assert chosen([case()], 2, start="afresh") == "volume"
    assert "running" not in scored
    assert chosen(two, 2, start="afresh") == "running"

    right["mixed"] = [10] * 8
    assert chosen(two, 2, statistics="running") == "running"
    assert set(scored) == {"running"}


@pytest.mark.usefixtures("short_epochs")
def test_statistics_are_not_chosen_by_what_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []

    def score(network: Any, plan: Plan, *_: Any) -> Score:
        scored.append(plan.statistics)
        return Score(np.array([[[10, 0], [5, 5]]]), SCHEME)

    monkeypatch.setattr(training, "score_network", score)
    few = case(slices=[(axis, 6) for axis in range(3)])
    assert run(tmp_path, [few], max_epochs=2)["metric"] == "training IoU"
    assert set(scored) == {"mixed"}


@pytest.mark.usefixtures("short_epochs")
def test_a_run_that_was_killed_compares_statistics_as_often_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[int, str]] = []
    reports: list[dict[str, Any]] = []

    def note(network: Any, plan: Plan, *_: Any) -> Score:
        scored.append((len(reports) + 1, plan.statistics))
        return Score(np.array([[[10, 0], [5, 5]]] * 8), SCHEME)

    for module in (training, publishing):
        monkeypatch.setattr(module, "score_network", note)
    # A checkpoint after each epoch.
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)

    def kill(report: dict[str, Any]) -> None:
        reports.append(report)
        if report["epoch"] in (1, 4, 6):
            raise Killed

    def go_on() -> None:
        options = PlanOptions(width=2)
        train([case()], SCHEME, ModelFolder(tmp_path), TrainingOptions(max_epochs=9), options, MACHINE, kill)

    for _ in range(3):
        with pytest.raises(Killed):
            go_on()
    go_on()
    assert [report["epoch"] for report in reports] == list(range(1, 10))
    assert [epoch for epoch, statistics in scored if statistics == "volume"] == [2, 8]


class Killed(Exception):
    pass


@pytest.mark.usefixtures("short_epochs")
def test_a_killed_run_continues_where_it_stood(tmp_path: Path) -> None:
    """Network, momentum, schedule and draws continue: the result is that of a run that was never killed."""
    run(tmp_path / "whole", [case()], max_epochs=2)

    def kill(report: dict[str, Any]) -> None:
        if report["epoch"] == 1:
            raise Killed

    folder = ModelFolder(tmp_path / "killed")
    with pytest.raises(Killed):
        train([case()], SCHEME, folder, TrainingOptions(max_epochs=2), PlanOptions(width=2), MACHINE, kill)
    reports: list[dict[str, Any]] = []
    final = run(tmp_path / "killed", [case()], reports, max_epochs=2)
    assert [report["epoch"] for report in reports] == [2]
    assert final["finished"]
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "killed")[name], value, msg=name)


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize(("calls", "steps"), [(1, 0), (2, 1), (3, 2), (6, 4)])
def test_a_stopped_run_continues_at_the_very_step(tmp_path: Path, calls: int, steps: int) -> None:
    """Also from the middle of an epoch and from the scores after it: nothing is lost, nothing is done twice."""
    whole = run(tmp_path / "whole", [case()], max_epochs=2)
    folder, asked = ModelFolder(tmp_path / "stopped"), 0

    def raise_if_stopping() -> None:
        nonlocal asked
        # Asked once for the volume, then before each step.
        if asked == calls:
            raise Stopped
        asked += 1

    reports: list[dict[str, Any]] = []
    options = TrainingOptions(max_epochs=2)
    with pytest.raises(Stopped):
        train([case()], SCHEME, folder, options, PlanOptions(width=2), MACHINE, reports.append, raise_if_stopping)
    assert torch.load(folder.checkpoint, weights_only=True)["steps"] == steps
    final = run(folder.path, [case()], reports, max_epochs=2)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert (final["finished"], final["published"]) == (True, True)
    assert final["score"] == pytest.approx(whole["score"], abs=1e-6)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(folder.path)[name], value, msg=name)


@pytest.mark.usefixtures("short_epochs")
def test_a_run_that_is_stopped_during_its_scores_is_scored_when_it_continues(tmp_path: Path) -> None:
    folder, steps = ModelFolder(tmp_path), 0

    def raise_if_stopping() -> None:
        nonlocal steps
        steps += 1
        if steps > 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(
            [case()],
            SCHEME,
            folder,
            TrainingOptions(max_epochs=1),
            PlanOptions(width=2),
            MACHINE,
            print,
            raise_if_stopping,
        )
    stopped = torch.load(folder.checkpoint, weights_only=True)
    assert (stopped["steps"], stopped["epoch"], stopped["finished"]) == (3, 0, False)
    assert not folder.is_published()
    final = run(tmp_path, [case()], max_epochs=1)
    assert (final["epoch"], final["published"], final["finished"]) == (1, True, True)
    for name, value in stopped["network"].items():
        torch.testing.assert_close(weights(tmp_path)[name], value, msg=name)


@pytest.mark.usefixtures("short_epochs")
def test_a_new_run_starts_from_the_last_weights_unless_afresh(tmp_path: Path) -> None:
    first = run(tmp_path, [case()], max_epochs=2)
    before = weights(tmp_path)["classify.weight"]
    second = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    assert second["run"] != first["run"]
    assert second["epoch"] == 1
    assert (weights(tmp_path)["classify.weight"] - before).abs().max() < 0.2 * before.abs().max()
    run(tmp_path, [case()], max_epochs=1, start="afresh", seed=9)
    assert (weights(tmp_path)["classify.weight"] - before).abs().max() > 0.2 * before.abs().max()


def test_what_cannot_be_continued_is_started_afresh_and_reported(tmp_path: Path) -> None:
    """Another width, and files that a full disk truncated. The damaged model is kept, too."""
    run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    wider = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001, width=3)
    assert "started afresh" in wider["message"]
    assert "width" in wider["message"]
    for name in ("checkpoint.pt", "model.pt"):
        (tmp_path / name).write_bytes(b"cut short")
    final = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001, width=3)
    assert "cannot be read as a model file" in final["message"]
    assert final["published"]
    assert b"cut short" in [path.read_bytes() for path in (tmp_path / "archive").iterdir()]


def test_a_published_model_is_replaced_only_by_one_as_good_on_the_same_slices(tmp_path: Path) -> None:
    good = run(tmp_path, [case()], max_epochs=5)
    assert good["best_metric"] > 0.5
    before = (tmp_path / "model.pt").read_bytes()
    poor = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001, start="afresh", seed=1)
    assert not poor["published"]
    assert poor["score"] < poor["best_metric"] == pytest.approx(good["best_metric"], abs=1e-6)
    assert "is kept, since it is better" in poor["message"]
    assert (tmp_path / "model.pt").read_bytes() == before
    assert not (tmp_path / "archive").exists()


def test_a_model_that_another_training_published_meanwhile_is_not_replaced_by_a_poorer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "other", [case()], max_epochs=5)
    ours = tmp_path / "ours"

    def publish_other(report: dict[str, Any]) -> None:
        # This training began when there was no model, and has published its own by now.
        if report["epoch"] == 3:
            assert report["published"]
            shutil.copyfile(tmp_path / "other/model.pt", ours / "model.pt")
        reports.append(report)

    reports: list[dict[str, Any]] = []
    options = TrainingOptions(max_epochs=4)
    # It learns next to nothing.
    monkeypatch.setattr(training, "make_plan", lambda *given: replace(make_plan(*given), learning_rate=1e-9))
    train([case()], SCHEME, ModelFolder(ours), options, PlanOptions(width=2), MACHINE, publish_other)
    assert reports[-1]["score"] < reports[-1]["best_metric"]
    assert not reports[-1]["published"]
    assert "is kept, since it is better" in reports[-1]["message"]
    assert (ours / "model.pt").read_bytes() == (tmp_path / "other/model.pt").read_bytes()


def test_if_the_published_model_is_taken_away_meanwhile_the_next_one_is_published(tmp_path: Path) -> None:
    run(tmp_path, [case()], max_epochs=5)

    def take_away(report: dict[str, Any]) -> None:
        if report["epoch"] == 1:
            (tmp_path / "model.pt").unlink()

    options = TrainingOptions(max_epochs=2, start="afresh", seed=1)
    final = train([case()], SCHEME, ModelFolder(tmp_path), options, PlanOptions(width=2), MACHINE, take_away)
    assert final["published"]
    assert ModelFolder(tmp_path).load(SCHEME).run == final["run"]


def test_a_model_published_before_the_kill_is_not_replaced_by_a_poorer_one(tmp_path: Path) -> None:
    """Killed between publishing and the checkpoint, a run finds its own, better model when it continues."""
    run(tmp_path, [case()], max_epochs=3)
    good = ModelFolder(tmp_path).load(SCHEME)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for value in checkpoint["network"].values():
        value.zero_()
    torch.save({**checkpoint, "epoch": 1, "finished": False}, tmp_path / "checkpoint.pt")
    final = run(tmp_path, [case()], max_epochs=2)
    assert final["run"] == good.run
    assert final["score"] < final["best_metric"] == pytest.approx(good.score, abs=1e-6)
    assert ModelFolder(tmp_path).load(SCHEME).epoch == good.epoch


def test_weights_that_are_not_finite_are_reported_and_not_kept(tmp_path: Path) -> None:
    run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    checkpoint["network"]["classify.bias"].fill_(torch.nan)
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(InputError, match=r"aren't finite in epoch 1.*checkpoint\.pt .*start 'afresh'"):
        run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    assert (tmp_path / "model.pt").read_bytes() == before


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
