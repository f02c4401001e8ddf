"""Simulated annotators: what they choose, what is learnt, and how they are compared."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from scipy import stats

from dense_volumes import write_balls
from devices import on_each_device
from experiments.annotators import DENSE, Course, Game, first_slices, iou_elsewhere, play
from experiments.comparison import summarise
from experiments.features import slice_features
from experiments.simulate import Options, simulate
from experiments.strategies import (
    FEW_IN_SLICE,
    STRATEGIES,
    Sight,
    away_from_annotated,
    boundary_lengths,
    certainty,
    mean_entropy,
    with_noise,
)
from experiments.study import Source, load_study
from game_records import record
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.annotation.suggestion import Evidence, newly_reached, worth_by_class
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.model import build_network
from lib.core.plan.plan import Plan
from lib.core.training import learner
from lib.core.volumes.volume import Volume

SHORT = Course(first_steps=2, steps=1, most_slices=6)
SHAPE = (24, 20, 12)


def sight(annotated: list[AnnotatedSlice], **known: Any) -> Sight:
    """A volume with a ball-like box; noise for entropy unless something else is known."""
    generator = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:14, 8:12, 3:6] = 1
    entropy = generator.integers(0, 256, SHAPE).astype(np.uint8)
    annotation = keep_slices(np.full(SHAPE, 2, np.uint8), annotated)
    evidence = Evidence(LabelScheme(("ball",), "outside"), annotation, labels, entropy)
    seen = {
        "evidence": evidence,
        "annotated": annotated,
        "chosen": max(0, len(annotated) - 3),
        "before": None,
        "volume": Volume(np.zeros((1, *SHAPE), np.float32), np.eye(4)),
        "segment": lambda _volume, _statistics: labels,
        "features": lambda: tuple(generator.normal(size=(length, 4)) for length in SHAPE),
        "generator": np.random.default_rng(1),
    }
    return Sight(**{**seen, **known})


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategies_choose_until_every_voxel_is_annotated(name: str) -> None:
    places = first_slices(SHAPE, np.random.default_rng(0))
    assert [place.axis for place in places] == [0, 1, 2]
    while not (seen := sight(places)).evidence.annotation.all():
        place = STRATEGIES[name](seen)
        assert place not in places
        assert 0 <= place.index < SHAPE[place.axis]
        places.append(place)


def with_slice(axis: int, index: int) -> np.ndarray:
    """What the model of ``sight`` says, but for one slice, where it finds nothing."""
    labels = sight([]).evidence.labels.copy()
    labels[(slice(None),) * axis + (index,)] = 0
    return labels


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_strategies_go_where_the_model_contradicts_itself(axis: int) -> None:
    """In the slice in which it finds the ball or not, by the way it looks."""
    index = (8, 9, 4)[axis]
    says, contradicts = with_slice(axis, index), sight([]).evidence.labels
    by = {"running": says, "volume": contradicts}
    place = STRATEGIES["by_statistics"](sight([], segment=lambda _volume, statistics: by[statistics]))
    assert place == AnnotatedSlice(axis, index)
    place = STRATEGIES["by_change"](sight([], before=says))
    assert place == AnnotatedSlice(axis, index)


@pytest.mark.parametrize("flipped", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_strategies_go_where_the_model_says_something_else_of_the_flipped_volume(flipped: tuple[int, ...]) -> None:
    says, contradicts = with_slice(1, 9), sight([]).evidence.labels
    # Told by its values how the image is flipped.
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)

    def segment(volume: Volume, _statistics: object) -> np.ndarray:
        steps = np.sign([float(np.diff(volume.array[0], axis=axis).flat[0]) for axis in range(3)])
        axes = tuple(axis for axis in range(3) if steps[axis] < 0)
        return np.flip(contradicts if axes == flipped else says, axes)

    evidence = Evidence(sight([]).evidence.scheme, np.zeros(SHAPE, np.uint8), says, np.zeros(SHAPE, np.uint8))
    place = STRATEGIES["by_flips"](sight([], evidence=evidence, volume=Volume(image, np.eye(4)), segment=segment))
    assert place == AnnotatedSlice(1, 9)


def test_the_slice_least_like_any_annotated_one_is_taken() -> None:
    features = [np.zeros((length, 2)) for length in SHAPE]
    features[0][3] = 2, 2
    features[1][5] = 3, 4
    features[2][7] = 3, 3
    annotated = [AnnotatedSlice(0, 1), AnnotatedSlice(1, 1)]
    place = STRATEGIES["by_features"](sight(annotated, features=lambda: tuple(features)))
    assert place == AnnotatedSlice(1, 5)
    # Near to that, in another axis too, nothing is new any more.
    place = STRATEGIES["by_features"](sight([*annotated, AnnotatedSlice(1, 5)], features=lambda: tuple(features)))
    assert place == AnnotatedSlice(0, 3)


@on_each_device
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_features_of_slices_change_where_the_image_does(axis: int, device: str) -> None:
    torch.manual_seed(0)
    shape = [24, 24, 24]
    shape[axis] = 120
    image = np.zeros((1, *shape), np.float32)
    image[(slice(None),) * (1 + axis) + (slice(60, None),)] = 1
    plan = Plan(LabelScheme(("ball",), "outside"), channels=1, spacing=None, width=2, tile=(92, 92, 92))
    features = slice_features(build_network(plan).to(device), plan, Volume(image, np.eye(4)))
    assert [own.shape for own in features] == [(length, 32) for length in shape]
    across = features[axis]
    # It sees 34 voxels on each side of every eighth one: around 21.5 only the dark part, from 93.5 only the bright one.
    sees_both = [np.linalg.norm(across - across[end], axis=1) > 1e-4 for end in (0, -1)]
    assert np.flatnonzero(sees_both[0] & sees_both[1]).tolist() == list(range(22, 94))
    # In the other directions all slices see the same.
    for other in {0, 1, 2} - {axis}:
        assert np.ptp(features[other], axis=0).max() < 1e-3


def test_boundary_lengths_are_counted_pair_by_pair() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 3)).astype(np.uint8)
    for axis in range(3):
        planes = np.moveaxis(labels, axis, 0)
        expected = [
            sum(plane[i, j] != plane[i + 1, j] for i in range(plane.shape[0] - 1) for j in range(plane.shape[1]))
            + sum(plane[i, j] != plane[i, j + 1] for i in range(plane.shape[0]) for j in range(plane.shape[1] - 1))
            for plane in planes
        ]
        assert boundary_lengths(labels, axis).tolist() == expected


def test_mean_entropy_is_over_unlabelled_voxels_by_class() -> None:
    known = sight([]).evidence
    known.annotation[:, :, 2] = 2
    scores = mean_entropy(known)
    for axis in range(3):
        for index in range(SHAPE[axis]):
            planes = [
                np.moveaxis(volume, axis, 0)[index].ravel().tolist()
                for volume in (known.annotation, known.labels, known.entropy)
            ]
            expected = 0.0
            for value in range(2):
                voxels = [
                    unsure / 255 for paint, label, unsure in zip(*planes, strict=True) if paint == 0 and label == value
                ]
                expected += sum(voxels) / (len(voxels) + FEW_IN_SLICE * len(planes[0])) / 2
            assert scores[axis][index] == pytest.approx(expected)
    assert scores[2][2] == 0


def test_slices_like_annotated_ones_are_passed_over() -> None:
    scores = tuple(np.ones(length) for length in (100, 40, 20))
    away = away_from_annotated(scores, [AnnotatedSlice(0, 10), AnnotatedSlice(0, 90), AnnotatedSlice(2, 0)])
    assert away[0][10] == away[0][90] == away[2][0] == 0
    assert (away[1] == 1).all()
    # By one reach, 5 slices of 100, one standard deviation of a Gaussian.
    assert away[0][15] == away[0][85] == pytest.approx(1 - np.exp(-0.5), abs=0.01)
    assert away[0][50] > 0.99
    assert (np.diff(away[0][10:51]) >= 0).all()


def test_by_cost_of_equally_unsure_slices_the_one_that_is_painted_soonest_is_taken() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[::2] = 1
    labels[10:12] = 0
    evidence = Evidence(
        LabelScheme(("ball",), "outside"), np.zeros(SHAPE, np.uint8), labels, np.full(SHAPE, 200, np.uint8)
    )
    place = STRATEGIES["by_cost"](sight([], evidence=evidence))
    assert place.axis == 0


def test_alternating_is_evenly_spaced_in_every_other_round() -> None:
    annotated = first_slices(SHAPE, np.random.default_rng(0))
    for chosen, like in ((0, "evenly_spaced"), (1, "next_slice"), (2, "evenly_spaced")):
        seen = sight(annotated, chosen=chosen)
        assert STRATEGIES["alternating"](seen) == STRATEGIES[like](seen)


def test_random_slices_are_drawn_axis_by_axis_or_by_their_foreground() -> None:
    seen = sight([])
    for name, expected in (("random", 1 / 3 / 12), ("foreground_random", 1 / 3 / 3)):
        drawn = Counter(STRATEGIES[name](seen) for _ in range(1500))
        for index in (3, 4, 5):
            count = drawn[AnnotatedSlice(2, index)]
            assert stats.binomtest(count, 1500, expected).pvalue > 0.001
        outside = drawn[AnnotatedSlice(2, 9)]
        assert (outside > 0) == (name == "random")


def test_a_game_is_repeatable_and_begins_alike_for_all(tmp_path: Path) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    subject = study.subjects["ball_1"]
    first, again, other = (
        play(subject, study.scheme, Game(strategy, 1), SHORT, "cpu")
        for strategy in ("random", "random", "evenly_spaced")
    )
    timed = {"seconds", "commit"}
    assert {key: first[key] for key in first.keys() - timed} == {key: again[key] for key in again.keys() - timed}
    assert first["slices"] == [3, 4, 5, 6]
    assert first["places"][:3] == other["places"][:3]
    assert first["iou"][0] == other["iou"][0]
    assert play(subject, study.scheme, Game("random", 2), SHORT, "cpu")["places"] != first["places"]
    assert len(first["iou_unannotated"]) == 4
    dense = play(subject, study.scheme, Game(DENSE, 1), SHORT, "cpu")
    # Trained for as many steps as the others with so many slices, on all there is.
    assert dense["slices"] == first["slices"]
    assert dense["places"] == first["places"][:3]


def test_a_game_does_not_depend_on_which_precision_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    curves = []
    for faster in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(learner, "half_precision_of", lambda _, faster=faster: faster)
        curves.append(play(study.subjects["ball_1"], study.scheme, Game("random", 1), SHORT, "cpu")["iou"])
    assert curves[0] == curves[1]


@on_each_device
def test_more_training_and_slices_lead_to_the_ball(tmp_path: Path, device: str) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    course = Course(first_steps=10, steps=10, most_slices=7)
    record = play(study.subjects["ball_1"], study.scheme, Game("evenly_spaced", 0), course, device)
    assert record["iou"][-1] > 0.6
    assert record["iou_unannotated"][-1] > 0.5
    assert record["iou_unannotated"] != record["iou"]


def test_iou_elsewhere_is_of_the_voxels_of_all_classes_that_are_not_annotated() -> None:
    """One whole class is annotated; of the other, one voxel of three is found, and one too many."""
    scheme = LabelScheme(("a", "b"), "outside")
    truth = np.array([1, 1, 2, 2, 2, 3, 3, 0], np.uint8).reshape(2, 2, 2)
    annotation = np.array([1, 1, 0, 0, 0, 0, 3, 0], np.uint8).reshape(2, 2, 2)
    labels = np.array([2, 2, 2, 0, 1, 1, 1, 1], np.uint8).reshape(2, 2, 2)
    # Found: one of b. Of either: three of b, and two that are taken for a.
    assert iou_elsewhere(labels, truth, annotation, scheme) == pytest.approx(1 / 5)
    assert iou_elsewhere(np.zeros_like(labels), truth, truth, scheme) == 1


def test_across_any_axis_the_slice_with_the_highest_score_is_taken() -> None:
    """``next_slice`` leaves out the axis with two slices."""
    places = [AnnotatedSlice(0, 1), AnnotatedSlice(1, 1), AnnotatedSlice(2, 0), AnnotatedSlice(2, 10)]
    seen = sight(places)
    scores = newly_reached(worth_by_class(seen.evidence), places)
    any_axis, next_slice = STRATEGIES["any_axis"](seen), STRATEGIES["next_slice"](seen)
    assert scores[any_axis.axis][any_axis.index] == max(of_axis.max() for of_axis in scores)
    assert any_axis.axis == 2
    assert next_slice.axis != 2
    assert scores[next_slice.axis][next_slice.index] == max(scores[0].max(), scores[1].max())


@pytest.mark.parametrize("beta", [1.0, 4.0])
def test_noise_draws_slices_by_their_scores(beta: float) -> None:
    """The largest of log score + Gumbel(0, 1/β) is drawn in proportion to score^β."""
    scores = (np.array([0.1, 0.2, 0.3]), np.array([0.4]))
    generator = np.random.default_rng(0)
    drawn = [int(np.argmax(np.concatenate(with_noise(scores, beta, generator)))) for _ in range(4000)]
    expected = np.concatenate(scores) ** beta / (np.concatenate(scores) ** beta).sum()
    assert stats.chisquare(np.bincount(drawn, minlength=4), 4000 * expected).pvalue > 0.01


def test_slices_of_score_zero_are_never_drawn() -> None:
    noisy = with_noise((np.array([0.0, 1e-9]),), 1.0, np.random.default_rng(0))
    assert noisy[0][0] == 0
    assert noisy[0][1] > 0


def test_certainty_grows_from_1_to_100() -> None:
    rounds = [certainty(number) for number in range(15)]
    assert rounds[0] == 1
    assert rounds[5] == pytest.approx(10)
    assert rounds[10] == rounds[14] == pytest.approx(100)
    assert (np.diff(rounds) >= 0).all()


def test_the_command_keeps_what_is_done_and_other_data_sets(tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    results = tmp_path / "out" / "results" / "simulate.json"
    options = Options(tmp_path / "balls", "ball", "ball_2", ["next_slice"], 1, SHORT, 1, tmp_path / "out")
    simulate(options)
    content = json.loads(results.read_text())
    settings = content["balls, ball_2"]["settings"]
    games = tmp_path / "out" / "work" / "simulate" / "balls" / "ball_2"
    before = {path.name: path.stat().st_mtime_ns for path in games.iterdir()}

    records = [record(DENSE, seed, [0.5, 0.7, 0.9, 0.8]) for seed in (0, 1)]
    records += [record(name, seed, [0.3, 0.4, 0.5, 0.6]) for name in STRATEGIES for seed in (0, 1)]
    other = {**summarise(records), "settings": settings}
    # Of another course, and as files were before they told.
    unlike = {"longer": {**other, "settings": {**settings, "course": [9, 9, 9]}}, "older": summarise(records)}
    results.write_text(json.dumps({**content, "other": other, **unlike}))
    simulate(options)
    content = json.loads(results.read_text())
    assert content["other"] == other
    assert set(content) == {"balls, ball_2", "other"}
    assert set(content["balls, ball_2"]["iou"]) == {"next_slice", "evenly_spaced", "random", "foreground_random"}
    report = (tmp_path / "out" / "results" / "simulate.html").read_text()
    for part in ("<h2>other</h2>", "<h2>balls, ball_2</h2>", "foreground_random", "image/png;base64", ", on a GPU."):
        assert part in report
    assert "All of these volumes" in report
    pictures = sorted((tmp_path / "out" / "results" / "simulate").iterdir())
    assert [path.name for path in pictures] == ["balls_ball_2.png", "other.png"]
    for path in pictures:
        drawn = np.rint(255 * matplotlib.image.imread(path)).astype(int)
        assert (drawn[:, :, :3] == (0xD5, 0x5E, 0x00)).all(axis=2).any()
    assert {path.name: path.stat().st_mtime_ns for path in games.iterdir()} == before


@pytest.mark.parametrize(
    ("strategies", "seeds", "most", "message"),
    [
        (["next"], 1, 6, "--strategies: 'next'; give some of next_slice"),
        (["random"], 0, 6, "--seeds: 0; give at least 1"),
        (["random"], 1, 12, "--slices: 12; give 3, the first ones, to 11 for ball_1"),
        (["random"], 1, 2, "--slices: 2; give 3, the first ones, to 11 for ball_1"),
    ],
)
def test_bad_options_are_refused(strategies: list[str], seeds: int, most: int, message: str, tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    course = Course(2, 1, most)
    with pytest.raises(InputError, match=message):
        simulate(Options(tmp_path / "balls", "", None, strategies, seeds, course, 1, tmp_path))


def test_a_volume_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    with pytest.raises(InputError, match="--volume: 'ball'; give one of ball_1, ball_2"):
        simulate(Options(tmp_path / "balls", "", "ball", ["random"], 1, SHORT, 1, tmp_path))
