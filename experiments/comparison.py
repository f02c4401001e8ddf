"""Comparison of strategies: curves, areas, number of slices needed, paired tests."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TypedDict

from scipy.stats import wilcoxon

from .annotators import DENSE, GameRecord, enough_iou, final_iou
from .foreground_efficiency import foreground_efficiency
from .gains import GainCheck, check_gains, gains
from .strategies import BASELINES, OURS

ByStrategy = dict[str, list[float]]
"""A number for each seed, by strategy."""

Reached = dict[str, list[float | None]]
"""The cost of reaching 95 % of the dense IoU for each seed, by strategy; None where it is never reached."""


class PairedTest(TypedDict):
    """Our areas minus a baseline's: median difference, and Wilcoxon's p, plain and corrected (Holm)."""

    difference: float | None
    p: float | None
    holm: float | None


class PairedOverVolumes(PairedTest):
    """The same over several volumes; ``pairs``: number of volumes times seeds."""

    pairs: int


class CompareSettings(TypedDict):
    """What comparisons must share to be shown together: checksum of the code; steps and slices."""

    code: int
    course: list[int]


class StrategyComparison(TypedDict):
    """How the strategies compare on one volume.

    ``slices``: numbers of annotated slices, at which all curves are. ``dense_iou``: curves of the reference by seed.
    The next entries are by strategy.

    - ``seeds``, and ``iou``: a curve for each of them, on the whole volume;
    - ``area_under_curve``, ``area_unannotated``: mean IoU over the numbers of slices, on the whole volume and where
      nothing is annotated yet;
    - ``slices_to_95_percent``: number of slices from which on the IoU stays at 95 % of the dense IoU, see
      ``enough_iou``; ``slices_to_first_95_percent``: number with which it is first reached;
    - ``length_to_95_percent``: length of the boundaries in the slices of ``slices_to_95_percent``, a measure of the
      painting time; ``labelled_to_95_percent``: share of all voxels that these slices label, 0 … 1;
    - ``foreground_efficiency``: see there.

    ``medians``: of these costs (``slices``, ``first``, ``length``), by strategy; None where at least half of the seeds
    never get there. ``saved``: for each cost, the part that ours saves against the best baseline. Both cover the
    seeds that ours and all baselines share. ``paired``: by baseline, over the seeds that it shares with ours.
    ``expected_gain``: how the gain that the server expects compares with that which followed, over all seeds of ours.
    """

    slices: list[int]
    dense_iou: list[list[float]]
    seeds: dict[str, list[int]]
    iou: dict[str, list[list[float]]]
    area_under_curve: ByStrategy
    area_unannotated: ByStrategy
    slices_to_95_percent: Reached
    slices_to_first_95_percent: Reached
    length_to_95_percent: Reached
    labelled_to_95_percent: Reached
    foreground_efficiency: Reached
    medians: dict[str, dict[str, float | None]]
    saved: dict[str, float | None]
    paired: dict[str, PairedTest]
    expected_gain: GainCheck | None
    commits: list[str]
    machines: list[str]
    date: str


class Comparison(StrategyComparison):
    """The same with its settings, as ``simulate.json`` holds it."""

    settings: CompareSettings


def summarise(records: Sequence[GameRecord]) -> StrategyComparison:
    """Compare the strategies on one volume."""
    dense = [record["iou"] for record in records if record["strategy"] == DENSE]
    enough = enough_iou(dense)
    by_strategy: dict[str, list[GameRecord]] = {}
    for record in sorted(records, key=lambda record: int(record["seed"])):
        if record["strategy"] != DENSE:
            by_strategy.setdefault(record["strategy"], []).append(record)
    seeds = {name: [record["seed"] for record in own] for name, own in by_strategy.items()}
    areas = {name: [statistics.fmean(record["iou"]) for record in own] for name, own in by_strategy.items()}
    costs = {"slices": _slices_to, "first": _first_slices_to, "length": _length_to}
    medians = {what: _medians(by_strategy, cost, enough) for what, cost in costs.items()}
    ours = by_strategy.get(OURS, ())
    return {
        "slices": next(own[0]["slices"] for own in by_strategy.values()),
        "dense_iou": dense,
        "seeds": seeds,
        "iou": {name: [record["iou"] for record in own] for name, own in by_strategy.items()},
        "area_under_curve": {name: [round(area, 4) for area in own] for name, own in areas.items()},
        "area_unannotated": {
            name: [round(statistics.fmean(record["iou_unannotated"]), 4) for record in own]
            for name, own in by_strategy.items()
        },
        "slices_to_95_percent": {
            name: [_slices_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "slices_to_first_95_percent": {
            name: [_first_slices_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "length_to_95_percent": {
            name: [_length_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "labelled_to_95_percent": {
            name: [_labelled_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "foreground_efficiency": {
            name: [_efficiency(record, final_iou(dense)) for record in own] for name, own in by_strategy.items()
        },
        "medians": medians,
        "saved": {what: _saved(own) for what, own in medians.items()},
        "paired": _corrected(
            {
                baseline: _paired(_differences(areas, seeds, baseline))
                for baseline in BASELINES
                if OURS in by_strategy and baseline in by_strategy
            }
        ),
        "expected_gain": check_gains([pair for one in ours for pair in gains(one["slices"], one["iou"])]),
        "commits": sorted({record["commit"] for record in records}),
        "machines": sorted({record["machine"] for record in records}),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def compare_over_volumes(results: Mapping[str, StrategyComparison]) -> dict[str, PairedOverVolumes]:
    """Compare our areas with those of each baseline over all volumes and seeds.

    Args:
        results: by data set.

    Returns:
        By baseline.
    """
    pairs: dict[str, list[float]] = {}
    for result in results.values():
        for baseline in result["paired"]:
            differences = _differences(result["area_under_curve"], result["seeds"], baseline)
            pairs.setdefault(baseline, []).extend(differences)
    compared = _corrected({baseline: _paired(differences) for baseline, differences in pairs.items()})
    return {baseline: {**compared[baseline], "pairs": len(own)} for baseline, own in pairs.items()}


def check_gains_over_volumes(results: Mapping[str, StrategyComparison]) -> GainCheck | None:
    """Compare the gains that the server expects with those that followed, over all volumes and seeds of ours."""
    curves = [(result["slices"], curve) for result in results.values() for curve in result["iou"].get(OURS, ())]
    return check_gains([pair for slices, curve in curves for pair in gains(slices, curve)])


def _slices_to(record: GameRecord, level: float) -> int | None:
    """Return the number of slices from which on the IoU stays at a level; None if it ends below."""
    enough = None
    for slices, iou in zip(record["slices"], record["iou"], strict=True):
        enough = (enough or slices) if iou >= level else None
    return enough


def _first_slices_to(record: GameRecord, level: float) -> int | None:
    """Return the number of slices with which the IoU first reaches a level; None if never."""
    return next((n for n, iou in zip(record["slices"], record["iou"], strict=True) if iou >= level), None)


def _medians(
    by_strategy: Mapping[str, Sequence[GameRecord]], cost: Callable[[GameRecord, float], int | None], level: float
) -> dict[str, float | None]:
    """Return the median cost of reaching a level by strategy, over the seeds that ours and all baselines share."""
    seeds = ({record["seed"] for record in by_strategy.get(name, ())} for name in (OURS, *BASELINES))
    shared = set.intersection(*seeds)
    medians: dict[str, float | None] = {}
    for name, own in by_strategy.items():
        costs = [cost(record, level) for record in own if record["seed"] in shared]
        if costs:
            median = statistics.median(math.inf if one is None else one for one in costs)
            medians[name] = None if math.isinf(median) else median
    return medians


def _saved(medians: Mapping[str, float | None]) -> float | None:
    """Return the part that ours saves against the best baseline; None unless both get there."""
    ours = medians.get(OURS)
    others = [median for name in BASELINES if (median := medians.get(name)) is not None]
    return None if ours is None or not others else round(1 - ours / min(others), 3)


def _corrected(paired: Mapping[str, PairedTest]) -> dict[str, PairedTest]:
    """Fill in ``holm``: p corrected for the number of tests by Holm's method."""
    corrected: dict[str, PairedTest] = {name: {**own} for name, own in paired.items()}
    values = sorted((p, name) for name, own in paired.items() if (p := own["p"]) is not None)
    highest = 0.0
    for number, (p, name) in enumerate(values):
        highest = max(highest, min(1.0, (len(values) - number) * p))
        corrected[name]["holm"] = highest
    return corrected


def _length_to(record: GameRecord, level: float) -> int | None:
    """Return the length of the boundaries in the slices of ``_slices_to``."""
    count = _slices_to(record, level)
    return None if count is None else sum(record["lengths"][:count])


def _labelled_to(record: GameRecord, level: float) -> float | None:
    """Return the share of voxels, 0 … 1, that the slices of ``_slices_to`` label."""
    count = _slices_to(record, level)
    return None if count is None else float(record["labelled"][record["slices"].index(count)])


def _efficiency(record: GameRecord, dense: float) -> float | None:
    efficiency = foreground_efficiency(record["foreground"], record["iou"], dense)
    return None if efficiency is None else round(efficiency, 2)


def _differences(
    areas: Mapping[str, Sequence[float]], seeds: Mapping[str, Sequence[int]], baseline: str
) -> list[float]:
    """Return our area minus a baseline's for each seed that both have."""
    theirs = dict(zip(seeds[baseline], areas[baseline], strict=True))
    ours = zip(seeds[OURS], areas[OURS], strict=True)
    return [area - theirs[seed] for seed, area in ours if seed in theirs]


def _paired(differences: Sequence[float]) -> PairedTest:
    """Return the median difference and Wilcoxon's p, not yet corrected."""
    p = float(wilcoxon(differences).pvalue) if len(differences) > 1 and any(differences) else None
    return {"difference": statistics.median(differences) if differences else None, "p": p, "holm": None}
