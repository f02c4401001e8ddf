"""Ours beside the best tuned alternative, over the data sets that ``time_to_iou`` has measured."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from .data_sets import CLASSES
from .learners import LEARNERS
from .learning import time_to_level
from .results import CurveEntry, Entry, result_key
from .time_to_iou import CURVE, OURS, PART, course_of


class Standing(NamedTuple):
    """Ours beside the best tuned alternative on a data set.

    Attributes:
        data: the data set.
        runs: number of runs of each side; a side's further runs don't count.
        ours: median IoU of our runs at the end, 0 … 1.
        peer: the alternative with the highest median.
        theirs: that median.
        lowest, highest: of the differences, ours minus theirs, between runs of the same seed.
        seconds: median time after which ours has ``theirs``; None unless all runs get there.
        budget: time that both had, in seconds.
        forgotten: classes with IoU 0 at the end of one of our runs.
    """

    data: str
    runs: int
    ours: float
    peer: str
    theirs: float
    lowest: float
    highest: float
    seconds: float | None
    budget: float
    forgotten: Sequence[str]


def standings(results: Mapping[str, Entry], device: str) -> Iterator[Standing]:
    """Compare on each data set where ours and a tuned alternative learnt as long, from as many slices, on a machine."""
    for data in CLASSES:
        keys = {name: result_key(f"{PART}.{data}.{CURVE}.{name}", device) for name in LEARNERS}
        curves = {name: cast(CurveEntry, results[key]) for name, key in keys.items() if key in results}
        if OURS not in curves:
            continue
        ours = curves[OURS]
        tuned = {
            name: entry
            for name, entry in curves.items()
            if LEARNERS[name].tuned and _conditions(entry) == _conditions(ours)
        }
        if tuned:
            yield _standing(data, ours, tuned)


def _conditions(entry: CurveEntry) -> tuple[object, ...]:
    return *course_of(entry), entry.get("machine")


def _standing(data: str, ours: CurveEntry, tuned: Mapping[str, CurveEntry]) -> Standing:
    runs = min(len(entry["curves"]) for entry in (ours, *tuned.values()))
    medians = {name: statistics.median(entry["final"][:runs]) for name, entry in tuned.items()}
    peer = max(medians, key=lambda name: medians[name])
    differences = [own - other for own, other in zip(ours["final"][:runs], tuned[peer]["final"][:runs], strict=True)]
    times = [time_to_level(curve, medians[peer], LEARNERS[OURS].published) for curve in ours["curves"][:runs]]
    reached = [seconds for seconds in times if seconds is not None]
    return Standing(
        data=data,
        runs=runs,
        ours=statistics.median(ours["final"][:runs]),
        peer=peer,
        theirs=medians[peer],
        lowest=min(differences),
        highest=max(differences),
        seconds=statistics.median(reached) if len(reached) == runs else None,
        budget=ours["budget_seconds"],
        forgotten=sorted({name for iou in ours["iou"][:runs] for name, value in iou.items() if value == 0}),
    )


def describe_bars(results: Mapping[str, Entry], device: str) -> list[str]:
    """Return a line for each data set, and one for the means over them; none if nothing can be compared."""
    found = list(standings(results, device))
    lines = []
    for one in found:
        reached = f"never has {one.theirs:.3f}"
        if one.seconds is not None:
            reached = f"has {one.theirs:.3f} after {one.seconds:.0f} of {one.budget:.0f} s"
        forgotten = f"; IoU 0: {', '.join(one.forgotten)}" if one.forgotten else ""
        lines.append(
            f"{one.data}: ours {one.ours:.3f}, {one.peer} {one.theirs:.3f} (medians of {one.runs}; differences "
            f"{one.lowest:+.3f} to {one.highest:+.3f}); ours {reached}{forgotten}"
        )
    if len(found) > 1:
        difference = statistics.fmean(one.ours - one.theirs for one in found)
        shares = [one.budget if one.seconds is None else one.seconds for one in found]
        share = statistics.fmean(seconds / one.budget for seconds, one in zip(shares, found, strict=True))
        lines.append(
            f"Mean over {len(found)} data sets: ours is {difference:+.3f}, and has the other's IoU after {share:.0%} "
            "of the time; never counts as 100 %"
        )
    return lines
