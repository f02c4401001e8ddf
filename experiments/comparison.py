"""How the strategies of simulated annotators compare: curves, areas, slices needed, paired tests."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from scipy.stats import wilcoxon

from .annotators import DENSE, Record, enough_iou
from .strategies import BASELINES, OURS


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Compare the strategies on one volume.

    Returns:
        ``dense_iou``, the reference's curves by seed; by strategy, and then by seed (``seeds``), ``slices``, ``iou``
        (curves on the whole volume), ``iou_unannotated`` (on what is unannotated yet), ``places``, ``area_under_curve``
        (mean IoU over the numbers of slices), ``area_unannotated``, ``slices_to_95_percent`` (from which on the IoU is
        always enough, see ``enough_iou``; None if never), ``slices_to_first_95_percent`` (with which it is for the
        first time), and of the slices from which on it is always enough ``length_to_95_percent``, the length of the
        boundaries in them, which painting takes time in proportion to, and ``labelled_to_95_percent``, their part of
        all voxels; ``medians`` of these ``slices``, of the ``first`` and of the ``length``, None where half of the
        seeds or more never get there; ``saved``, which part of each ours takes less than the best baseline; both are
        over the seeds that ours and all baselines share. ``paired``: Wilcoxon's p of our areas against those of each
        baseline, over the seeds that these two share, and ``holm``, it corrected for their number.
    """
    dense = [record["iou"] for record in records if record["strategy"] == DENSE]
    enough = enough_iou(dense)
    by_strategy: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: int(record["seed"])):
        if record["strategy"] != DENSE:
            by_strategy.setdefault(record["strategy"], []).append(record)
    seeds = {name: [record["seed"] for record in own] for name, own in by_strategy.items()}
    areas = {name: [statistics.fmean(record["iou"]) for record in own] for name, own in by_strategy.items()}
    costs = {"slices": _slices_to, "first": _first_slices_to, "length": _length_to}
    medians = {what: _medians(by_strategy, cost, enough) for what, cost in costs.items()}
    return {
        "dense_iou": dense,
        "seeds": seeds,
        "slices": {name: own[0]["slices"] for name, own in by_strategy.items()},
        "iou": {name: [record["iou"] for record in own] for name, own in by_strategy.items()},
        "iou_unannotated": {name: [record["iou_unannotated"] for record in own] for name, own in by_strategy.items()},
        "places": {name: [record["places"] for record in own] for name, own in by_strategy.items()},
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
        "medians": medians,
        "saved": {what: _saved(own) for what, own in medians.items()},
        "paired": _corrected(
            {
                baseline: _paired(_differences(areas, seeds, baseline))
                for baseline in BASELINES
                if OURS in by_strategy and baseline in by_strategy
            }
        ),
        "commits": sorted({record["commit"] for record in records}),
        "machines": sorted({record["machine"] for record in records}),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def compare_over_volumes(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Compare our areas with those of each baseline over all volumes and seeds.

    Args:
        results: by data set, see ``summarise``.

    Returns:
        By baseline, ``difference``, the median, ``p`` by Wilcoxon's test, ``holm``, and ``pairs``, how many there are.
    """
    pairs = {
        baseline: [
            difference
            for result in results.values()
            if {OURS, baseline} <= result["seeds"].keys()
            for difference in _differences(result["area_under_curve"], result["seeds"], baseline)
        ]
        for baseline in BASELINES
    }
    compared = _corrected({baseline: _paired(differences) for baseline, differences in pairs.items()})
    return {baseline: {**own, "pairs": len(pairs[baseline])} for baseline, own in compared.items()}


def _slices_to(record: Record, level: float) -> int | None:
    """Return the number of slices from which on the IoU is never below a level again; None if it is at the end."""
    enough = None
    for slices, iou in zip(record["slices"], record["iou"], strict=True):
        enough = (enough or slices) if iou >= level else None
    return enough


def _first_slices_to(record: Record, level: float) -> int | None:
    """Return the number of slices with which the IoU reaches a level first; None if never."""
    return next((n for n, iou in zip(record["slices"], record["iou"], strict=True) if iou >= level), None)


def _medians(
    by_strategy: Mapping[str, Sequence[Record]], cost: Callable[[Record, float], int | None], level: float
) -> dict[str, float | None]:
    """Return by strategy the median of what it takes to reach a level, over the seeds that ours and baselines share."""
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
    """Return which part ours takes less than the best baseline; None unless both get there."""
    ours = medians.get(OURS)
    others = [median for name in BASELINES if (median := medians.get(name)) is not None]
    return None if ours is None or not others else round(1 - ours / min(others), 3)


def _corrected(paired: Mapping[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Add ``holm``: p values corrected for how many there are, by Holm's method."""
    corrected: dict[str, dict[str, float | None]] = {name: {**own, "holm": None} for name, own in paired.items()}
    values = sorted((p, name) for name, own in paired.items() if (p := own["p"]) is not None)
    highest = 0.0
    for number, (p, name) in enumerate(values):
        highest = max(highest, min(1.0, (len(values) - number) * p))
        corrected[name]["holm"] = highest
    return corrected


def _length_to(record: Record, level: float) -> int | None:
    """Return how long the boundaries are in the slices that it takes, see ``_slices_to``."""
    count = _slices_to(record, level)
    return None if count is None else sum(record["lengths"][:count])


def _labelled_to(record: Record, level: float) -> float | None:
    """Return which part of all voxels is labelled in the slices that it takes, see ``_slices_to``."""
    count = _slices_to(record, level)
    return None if count is None else float(record["labelled"][record["slices"].index(count)])


def _differences(
    areas: Mapping[str, Sequence[float]], seeds: Mapping[str, Sequence[int]], baseline: str
) -> list[float]:
    """Return by how much our area is larger than a baseline's, for each seed that both have."""
    theirs = dict(zip(seeds[baseline], areas[baseline], strict=True))
    ours = zip(seeds[OURS], areas[OURS], strict=True)
    return [area - theirs[seed] for seed, area in ours if seed in theirs]


def _paired(differences: Sequence[float]) -> dict[str, float | None]:
    """Return the median difference, and Wilcoxon's p."""
    p = float(wilcoxon(differences).pvalue) if len(differences) > 1 and any(differences) else None
    return {"difference": statistics.median(differences) if differences else None, "p": p}
