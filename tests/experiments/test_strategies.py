"""Which slice each strategy chooses."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from experiments import strategies
from experiments.annotators import first_slices
from experiments.strategies import BASELINES, OURS, STRATEGIES, StrategyInput, power
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.annotation.suggestion import Evidence
from lib.core.labels import LabelScheme

SHAPE = (24, 20, 12)

DRAWS = 3000


def strategy_input(annotated: list[AnnotatedSlice]) -> StrategyInput:
    """A volume with a box of foreground, of which the model knows the half, and noise for entropy."""
    truth = np.full(SHAPE, 2, np.uint8)
    truth[6:14, 8:12, 3:6] = 1
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:10, 8:12, 3:6] = 1
    entropy = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    evidence = Evidence(LabelScheme(("ball",), "outside"), keep_slices(truth, annotated), labels, entropy)
    return StrategyInput(evidence, annotated, truth, 0.5, np.random.default_rng(1))


def slices_of(shape: tuple[int, ...]) -> list[AnnotatedSlice]:
    return [AnnotatedSlice(axis, index) for axis, length in enumerate(shape) for index in range(length)]


def assert_drawn(name: str, known: StrategyInput, chances: dict[AnnotatedSlice, float], draws: int = DRAWS) -> None:
    """Assert that a strategy draws slices with these chances; slices that aren't named are never drawn."""
    drawn = Counter(STRATEGIES[name](known) for _ in range(draws))
    assert math.isclose(sum(chances.values()), 1)
    assert drawn.keys() <= {place for place, chance in chances.items() if chance > 0}
    places = [place for place in chances if chances[place] > 0]
    expected = [draws * chances[place] for place in places]
    assert stats.chisquare([drawn[place] for place in places], expected).pvalue > 0.001


def test_ours_is_compared_with_all_others() -> None:
    assert {OURS, *BASELINES} == set(STRATEGIES)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategies_choose_until_every_voxel_is_annotated(name: str) -> None:
    places = first_slices(SHAPE, np.random.default_rng(0))
    assert [place.axis for place in places] == [0, 1, 2]
    while not (known := strategy_input(places)).evidence.annotation.all():
        place = STRATEGIES[name](known)
        assert place not in places
        assert 0 <= place.index < SHAPE[place.axis]
        places.append(place)


def test_random_slices_are_drawn_axis_by_axis() -> None:
    assert_drawn("random", strategy_input([]), {place: 1 / 3 / SHAPE[place.axis] for place in slices_of(SHAPE)})


def foreground_aware_chances(known: StrategyInput, part: float) -> dict[AnnotatedSlice, float]:
    """Add up the chances voxel by voxel, in the words of the paper; nothing is annotated."""
    chances = {place: (1 - part) / 3 / known.shape[place.axis] for place in slices_of(known.shape)}
    classes = sorted({int(value) for value in known.truth.ravel()} - {0, len(known.evidence.scheme.classes)})
    for value in classes:
        inside = {voxel for voxel in np.ndindex(*known.shape) if known.truth[voxel] == value}
        border = set()
        for voxel in inside:
            for axis in range(3):
                for step in (-1, 1):
                    beside = tuple(n + step * (axis == other) for other, n in enumerate(voxel))
                    in_volume = 0 <= beside[axis] < known.shape[axis]
                    if in_volume and beside not in inside:
                        border.add(voxel)
        for area in (inside, border):
            for voxel in area:
                for axis in range(3):
                    chances[AnnotatedSlice(axis, voxel[axis])] += part / len(classes) / 2 / len(area) / 3
    return chances


@pytest.mark.parametrize(("name", "part"), [("random_33_fg", 1 / 3), ("random_66_fg", 2 / 3)])
def test_foreground_aware_slices_are_drawn_by_voxels_of_the_true_classes_and_of_their_borders(
    name: str, part: float
) -> None:
    """One class is a box that reaches an edge of the volume, where it has no border, the other two voxels."""
    known = strategy_input([])
    truth = np.full((11, 12, 13), 3, np.uint8)
    truth[0:10, 1:11, 2:12] = 1
    truth[10, 11, 12] = truth[10, 0, 0] = 2
    evidence = replace(
        known.evidence,
        scheme=LabelScheme(("box", "dot"), "outside"),
        annotation=np.zeros_like(truth),
        labels=np.zeros_like(truth),
        entropy=np.zeros_like(truth),
    )
    known = replace(known, evidence=evidence, truth=truth)
    chances = foreground_aware_chances(known, part)
    assert chances[AnnotatedSlice(0, 10)] > part / 6
    assert_drawn(name, known, chances, draws=20_000)


def test_foreground_aware_slices_are_any_slices_where_all_those_with_foreground_are_annotated() -> None:
    taken = [AnnotatedSlice(0, x) for x in range(6, 14)]
    taken += [AnnotatedSlice(1, y) for y in range(8, 12)] + [AnnotatedSlice(2, z) for z in range(3, 6)]
    free = [place for place in slices_of(SHAPE) if place not in taken]
    total = sum(1 / SHAPE[place.axis] for place in free)
    assert_drawn("random_66_fg", strategy_input(taken), {p: 1 / SHAPE[p.axis] / total for p in free})


def clasp_chances(known: StrategyInput, beta: float) -> dict[AnnotatedSlice, float]:
    """Add up the chances by plain loops: scores to the power β, by class with two of three queries."""
    foreground = len(known.evidence.scheme.foreground)
    strata = [(1 - 0.66, None), *((0.66 / foreground, value) for value in range(1, foreground + 1))]
    free = [place for place in slices_of(known.shape) if place not in known.annotated]
    chances = dict.fromkeys(free, 0.0)
    for part, value in strata:
        scores = dict.fromkeys(free, 0.0)
        for place in free:
            voxels = [voxel for voxel in np.ndindex(*known.shape) if voxel[place.axis] == place.index]
            for voxel in voxels:
                if known.evidence.annotation[voxel] == 0 and value in (None, known.evidence.labels[voxel]):
                    scores[place] += int(known.evidence.entropy[voxel]) / len(voxels)
        total = sum(score**beta for score in scores.values())
        for place in free:
            chances[place] += part * scores[place] ** beta / total
    return chances


def clasp_input(progress: float) -> StrategyInput:
    """A small volume with two classes, whose entropy is higher at one end, and one annotated slice."""
    known, shape = strategy_input([]), (5, 4, 3)
    labels = np.zeros(shape, np.uint8)
    labels[1:3, :, 1:] = 1
    labels[4, 3, 2] = 2
    truth = np.where(labels == 0, 3, labels).astype(np.uint8)
    entropy = np.random.default_rng(2).integers(20, 60, shape) + 20 * np.arange(5).reshape(5, 1, 1)
    annotated = [AnnotatedSlice(0, 3)]
    scheme = LabelScheme(("tube", "dot"), "outside")
    evidence = Evidence(scheme, keep_slices(truth, annotated), labels, entropy.astype(np.uint8))
    return replace(known, evidence=evidence, annotated=annotated, truth=truth, progress=progress)


@pytest.mark.parametrize("progress", [0.0, 0.3])
def test_clasp_pe_draws_slices_by_a_power_of_their_mean_entropy_class_by_class(progress: float) -> None:
    known = clasp_input(progress)
    assert_drawn("clasp_pe", known, clasp_chances(known, 100**progress))


def test_clasp_pe_ends_with_the_most_uncertain_slice_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise, three slices are left: the best by entropy alone, and the best of each class."""
    monkeypatch.setattr(strategies, "POWERS", (1.0, 1e9))
    known = clasp_input(1.0)
    drawn = Counter(STRATEGIES["clasp_pe"](known) for _ in range(300))
    best = {place: chance for place, chance in clasp_chances(known, 40).items() if chance > 0.1}
    assert drawn.keys() == best.keys()
    for place, chance in best.items():
        assert stats.binomtest(drawn[place], 300, round(chance, 2)).pvalue > 0.001


def test_clasp_pe_goes_by_entropy_alone_where_a_class_is_not_predicted() -> None:
    known = clasp_input(0.0)
    nothing = replace(known.evidence, labels=np.zeros_like(known.evidence.labels))
    known = replace(known, evidence=nothing)
    free = [place for place in slices_of((5, 4, 3)) if place not in known.annotated]
    entropy = np.where(nothing.annotation == 0, nothing.entropy, 0).astype(float)
    means = [float(np.moveaxis(entropy, place.axis, 0)[place.index].mean()) for place in free]
    assert_drawn("clasp_pe", known, {place: mean / sum(means) for place, mean in zip(free, means, strict=True)})


def test_the_power_rises_exponentially() -> None:
    assert [power(progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([1, 10**0.5, 10, 100])
