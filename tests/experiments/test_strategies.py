"""Which slice each strategy chooses."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from experiments.annotators import first_slices
from experiments.strategies import STRATEGIES, StrategyInput
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.annotation.suggestion import Evidence
from lib.core.labels import LabelScheme

SHAPE = (24, 20, 12)


def strategy_input(annotated: list[AnnotatedSlice]) -> StrategyInput:
    """A volume with a box of foreground, and noise for entropy."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[6:14, 8:12, 3:6] = 1
    entropy = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    annotation = keep_slices(np.full(SHAPE, 2, np.uint8), annotated)
    evidence = Evidence(LabelScheme(("ball",), "outside"), annotation, labels, entropy)
    return StrategyInput(evidence, annotated, np.random.default_rng(1))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_strategies_choose_until_every_voxel_is_annotated(name: str) -> None:
    places = first_slices(SHAPE, np.random.default_rng(0))
    assert [place.axis for place in places] == [0, 1, 2]
    while not (known := strategy_input(places)).evidence.annotation.all():
        place = STRATEGIES[name](known)
        assert place not in places
        assert 0 <= place.index < SHAPE[place.axis]
        places.append(place)


def test_random_slices_are_drawn_axis_by_axis_or_by_their_foreground() -> None:
    known = strategy_input([])
    for name, expected in (("random", 1 / 3 / 12), ("foreground_random", 1 / 3 / 3)):
        drawn = Counter(STRATEGIES[name](known) for _ in range(1500))
        for index in (3, 4, 5):
            count = drawn[AnnotatedSlice(2, index)]
            assert stats.binomtest(count, 1500, expected).pvalue > 0.001
        outside = drawn[AnnotatedSlice(2, 9)]
        assert (outside > 0) == (name == "random")
