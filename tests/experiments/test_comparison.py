"""How simulated annotators are compared, by closed forms."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from experiments.annotators import DENSE, GameRecord
from experiments.comparison import PairedTest, StrategyComparison, _corrected, compare_over_volumes, summarise
from experiments.strategies import BASELINES
from game_records import record


def late_games(rounds: Mapping[str, int], seeds: Sequence[int]) -> list[GameRecord]:
    """Games of four rounds that reach the level after so many of them; one of dense annotation, and all baselines."""
    games = [record(DENSE, 0, [0.8])]
    for name, late in {**dict.fromkeys(BASELINES, 4), **rounds}.items():
        games += [record(name, seed, [0.5] * late + [0.8] * (4 - late)) for seed in seeds]
    return games


def test_curves_are_compared_seed_by_seed() -> None:
    records = [record(DENSE, seed, [0.5, 0.7, 0.9, 0.8]) for seed in range(6)]
    for seed in range(6):
        records.append(record("next_slice", seed, [0.4, 0.77, 0.70, 0.78 + 0.001 * seed]))
        records.append(record("random", seed, [0.4, 0.5, 0.6, 0.7 - 0.001 * seed]))
    summary = summarise(records[::-1])
    assert summary["area_under_curve"]["next_slice"][0] == pytest.approx((0.4 + 0.77 + 0.7 + 0.78) / 4, abs=1e-4)
    # 95 % of 0.8 is 0.76; from the sixth slice on, the curve stays above it.
    assert summary["slices_to_95_percent"] == {"next_slice": [6] * 6, "random": [None] * 6}
    assert summary["slices_to_first_95_percent"] == {"next_slice": [4] * 6, "random": [None] * 6}
    assert summary["area_unannotated"]["random"][0] == pytest.approx(0.45)
    assert summary["saved"] == {"slices": None, "first": None, "length": None}
    assert summary["length_to_95_percent"] == {"next_slice": [12] * 6, "random": [None] * 6}
    assert summary["labelled_to_95_percent"] == {"next_slice": [pytest.approx(0.6)] * 6, "random": [None] * 6}
    differences = [0.11250 + 0.0005 * seed for seed in range(6)]
    assert summary["paired"]["random"]["difference"] == pytest.approx(np.median(differences))
    # All six differences have the same sign: twice 1 of 64 cases.
    assert summary["paired"]["random"]["p"] == pytest.approx(2 / 64)
    assert summary["seeds"] == {"next_slice": list(range(6)), "random": list(range(6))}
    # Two choices of each of ours have an expectation: after 3 and 4, and after 3 to 5 slices.
    assert summary["expected_gain"] is not None
    assert summary["expected_gain"]["choices"] == 12
    assert summary["expected_gain"]["followed"] == pytest.approx((6 * 0.01 + 15 * 0.001) / 12, abs=1e-4)


def test_slices_saved_are_those_of_the_best_baseline() -> None:
    # Ours needs 4 slices, the best baseline 6; random never reaches the level.
    summary = summarise(late_games({"next_slice": 1, "random_66_fg": 3, "evenly_spaced": 3}, seeds=(0, 1, 2)))
    assert summary["medians"]["slices"] == {
        **dict.fromkeys(BASELINES),
        "next_slice": 4,
        "random_66_fg": 6,
        "evenly_spaced": 6,
    }
    assert summary["saved"] == pytest.approx(dict.fromkeys(("slices", "first", "length"), 1 - 4 / 6), abs=1e-3)
    assert summary["slices_to_95_percent"]["random"] == [None] * 3


@pytest.mark.parametrize("reached_by", ["next_slice", "random", ""])
def test_nothing_is_saved_where_ours_or_all_others_never_get_there(reached_by: str) -> None:
    records = [record(DENSE, 0, [0.8])]
    for name in ("next_slice", *BASELINES):
        # Half of the four seeds reach the level.
        records += [record(name, seed, [0.5, 0.8 if name == reached_by else 0.5]) for seed in (0, 1)]
        records += [record(name, seed, [0.5, 0.8 if name == reached_by or seed == 2 else 0.5]) for seed in (2, 3)]
    summary = summarise(records)
    assert summary["medians"]["slices"].get(reached_by) == (4 if reached_by else None)
    assert summary["saved"]["slices"] is None


def test_needing_more_slices_than_the_best_baseline_is_a_negative_saving() -> None:
    records = late_games({"next_slice": 3, "clasp_pe": 1, "random": 2}, seeds=(0, 1))
    assert summarise(records)["saved"]["slices"] == pytest.approx(1 - 6 / 4)


def test_p_values_are_corrected_by_holm() -> None:
    """Of three p-values, the smallest is multiplied by 3, the next by 2; none ends below a smaller one."""
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": None}
    corrected = _corrected({name: PairedTest(difference=0.1, p=p, holm=None) for name, p in values.items()})
    assert [corrected[name]["holm"] for name in "abc"] == pytest.approx([0.03, 0.06, 0.06])
    assert corrected["d"]["holm"] is None


def test_only_the_same_seeds_are_paired() -> None:
    records = [record(DENSE, 0, [0.8])]
    records += [record("next_slice", seed, [0.1 * seed]) for seed in (0, 1, 2)]
    records += [record("random", seed, [0.1 * seed - 0.05]) for seed in (1, 2, 4)]
    assert summarise(records)["paired"]["random"]["difference"] == pytest.approx(0.05)


def test_slices_saved_are_over_the_seeds_that_all_have() -> None:
    records = late_games({"next_slice": 1, "evenly_spaced": 2, "random": 3}, seeds=(0, 1))
    # More seeds of ours, which reach the level at once.
    records += [record("next_slice", seed, [0.8] * 4) for seed in (2, 3, 4)]
    assert summarise(records)["saved"]["slices"] == pytest.approx(1 - 4 / 5, abs=1e-3)


def test_over_all_volumes_each_seed_of_each_is_a_pair() -> None:
    results: dict[str, StrategyComparison] = {}
    for number, name in enumerate("abc"):
        records = [record(DENSE, 0, [0.8])]
        for seed in (0, 1):
            records.append(record("next_slice", seed, [0.5]))
            records.append(record("random", seed, [0.49 - 0.02 * seed - 0.1 * number]))
        results[name] = summarise(records)
    results["without ours"] = summarise([record(DENSE, 0, [0.8]), record("random", 0, [0.9])])
    compared = compare_over_volumes(results)
    assert compared["random"]["pairs"] == 6
    # The differences are 0.01, 0.03, 0.11, 0.13, 0.21 and 0.23: all have one sign.
    assert compared["random"]["difference"] == pytest.approx(0.12)
    assert compared["random"]["p"] == compared["random"]["holm"] == pytest.approx(2 / 64)
    assert list(compared) == ["random"]
