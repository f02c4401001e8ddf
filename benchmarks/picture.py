"""The results as pictures: our speed relative to others and the targets; and how fast each learner learns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from .data_sets import CLASSES
from .learners import LEARNERS
from .results import CurveEntry, Entry, with_ratio
from .time_to_iou import CURVE, LEVELS, OURS, PART

REACHED, MISSED, LINE = "#3f7f5f", "#c0603f", "#202020"

COLOURS = {
    "ours": "#0072b2",
    "pytorch3dunet": "#e69f00",
    "nnunetv2": "#009e73",
    "monai_basicunet": "#cc79a7",
    "monai_dynunet": "#d55e00",
    "random_forest": "#56b4e9",
    "biomedisa": "#7f5539",
    "interpolation": "#404040",
}
"""Colours that people with colour-blindness can tell apart. A tuned learner has the colour of its defaults."""


def draw_picture(results: Mapping[str, Entry], path: Path) -> None:
    """Write a PNG with a bar for each comparison, and a line across it at the target.

    Args:
        results: the entries of ``results.json``.
        path: the PNG file.
    """
    entries = dict(sorted(with_ratio(results).items(), reverse=True))
    if not entries:
        return
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.5 * len(entries)), layout="constrained")
    for row, entry in enumerate(entries.values()):
        ratio, (low, high) = entry["ratio"], entry["spread"]
        bar = entry["bar"]
        axes.barh(row, ratio, height=0.6, color=REACHED if ratio >= (bar or 0) else MISSED)
        # With few runs, the ratio of the medians may lie outside the ratios of the runs.
        axes.plot([low, high], [row, row], color=LINE, linewidth=1)
        if bar:
            axes.plot([bar] * 2, [row - 0.42, row + 0.42], color=LINE, linewidth=2.5)
        unit = entry.get("unit", "s")
        times = f"{ratio:.1f}×   {_rounded(entry['ours'])} {unit} against {_rounded(entry['theirs'])} {unit}"
        axes.annotate(
            times, (max(ratio, high, bar or 0), row), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(entries)), list(entries), fontsize=9)
    axes.set_xlabel("times as fast as theirs (medians)\nthin line: lowest to highest of the runs; thick line: target")
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.45 * max(max(e["ratio"], e["spread"][1], e["bar"] or 0) for e in entries.values()))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_curves(results: Mapping[str, Entry], path: Path) -> None:
    """Write a PNG with a panel for each data set: mean foreground IoU over time, a curve for each learner and run.

    Args:
        results: the entries of ``results.json``.
        path: the PNG file.
    """
    panels = {data: _curves_of(data, results) for data in CLASSES}
    panels = {data: entries for data, entries in panels.items() if entries}
    if not panels:
        return
    figure, row = plt.subplots(
        1, len(panels), figsize=(12, 4.6), sharey=True, squeeze=False, layout="constrained", dpi=100
    )
    handles: dict[str, Any] = {}
    for axes, (data, entries) in zip(row[0], panels.items(), strict=True):
        for learner, entry in entries.items():
            for curve in entry["curves"]:
                handles[learner] = _draw_curve(axes, learner, curve)
        for level in LEVELS:
            axes.axhline(float(level), color="grey", linewidth=0.8, linestyle="--", zorder=0)
        budget = max(entry["budget_seconds"] for entry in entries.values())
        axes.set_xscale("log")
        first = min(curve[0][0] for entry in entries.values() for curve in entry["curves"])
        axes.set_xlim(0.8 * first, 1.15 * budget)
        ticks = [seconds for seconds in (1, 3, 10, 30, 60, 120, 240, 480, 960, 1920) if 0.8 * first < seconds]
        axes.set_xticks(ticks, [str(seconds) for seconds in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(0.8 * first, 1.15 * budget)
        axes.set_ylim(0, 1)
        axes.set_title(data)
        axes.set_xlabel("seconds since the annotation was submitted")
        axes.spines[["top", "right"]].set_visible(False)
    row[0][0].set_ylabel("mean foreground IoU on unpainted voxels")
    names = [learner for learner in LEARNERS if learner in handles]
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def _curves_of(data: str, results: Mapping[str, Entry]) -> dict[str, CurveEntry]:
    keys = {learner: f"{PART}.{data}.{CURVE}.{learner}" for learner in LEARNERS}
    return {learner: cast(CurveEntry, results[key]) for learner, key in keys.items() if key in results}


def _draw_curve(axes: Any, learner: str, curve: Sequence[Sequence[float]]) -> Any:
    """Draw a curve; return its handle for the legend."""
    seconds, iou = zip(*curve, strict=True)
    what, colour = LEARNERS[learner], COLOURS[learner.removesuffix("_tuned")]
    if what.at_once:
        axes.axhline(iou[0], color=colour, linewidth=1.2, linestyle=":")
        return axes.plot(seconds, iou, color=colour, marker="D", markersize=7, linestyle=":", linewidth=1.2)[0]
    width, order = (3.2, 5) if learner == OURS else (1.6, 3)
    # A published model stays the result until another replaces it.
    style = "steps-post" if what.published else "default"
    return axes.plot(
        seconds,
        iou,
        color=colour,
        linewidth=width,
        linestyle="--" if what.tuned else "-",
        zorder=order,
        drawstyle=style,
        marker="o",
        markersize=width + 0.5,
    )[0]


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
