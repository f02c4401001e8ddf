"""The report of simulated annotators: curves of IoU over slices, and how the strategies compare."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.core.files import replacing
from lib.report.page import Shown, Table, render, write_page
from lib.report.pictures import png_of_figure

from . import TEMPLATES
from .annotators import ENOUGH, enough_iou
from .comparison import Comparison, PairedTest, check_gains_over_volumes, compare_over_volumes
from .gains import GainCheck
from .strategies import OURS

COLOURS = {
    "next_slice": "#d55e00",
    "evenly_spaced": "#0072b2",
    "random": "#999999",
    "random_33_fg": "#56b4e9",
    "random_66_fg": "#009e73",
    "clasp_pe": "#cc79a7",
}

OTHER_COLOUR = "#000000"
"""Of strategies that aren't compared any more."""


@dataclass(frozen=True)
class _Section:
    """The part of the page about a data set."""

    data: str
    curves: Shown
    table: Table
    provenance: str


def write_simulate_report(path: Path, results: Mapping[str, Comparison]) -> None:
    """Write the HTML file, renamed into place, and beside it the curves of each data set as ``simulate/DATA.png``.

    Args:
        path: the file.
        results: by data set.
    """
    sections = []
    for data, result in results.items():
        curves = draw_curves(result)
        with replacing(path.parent / "simulate" / f"{data.replace(', ', '_')}.png") as beside:
            beside.write_bytes(curves)
        shown = Shown(curves, f"IoU over annotated slices, {data}")
        sections.append(_Section(data, shown, _table(result), _provenance(result)))
    paired = _paired_table(results) if len(results) > 1 else None
    gains = _describe_gains(check_gains_over_volumes(results))
    write_page(path, render("simulate.html.j2", TEMPLATES, sections=sections, paired=paired, gains=gains))


def draw_curves(result: Comparison) -> bytes:
    """Draw IoU over the number of slices for each strategy of a data set.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    slices = result["slices"]
    for name in _strategies(result):
        curves, colour = np.array(result["iou"][name]), COLOURS.get(name, OTHER_COLOUR)
        axes.plot(slices, curves.mean(axis=0), color=colour, label=name, linewidth=2.5 if name == OURS else 1.5)
        axes.fill_between(slices, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.12, linewidth=0)
    axes.plot(slices, np.mean(result["dense_iou"], axis=0), "k:", linewidth=1, label="dense, as many steps")
    axes.axhline(
        enough_iou(result["dense_iou"]), color="k", linestyle="--", linewidth=1, label=f"{ENOUGH:.0%} of dense"
    )
    axes.set(xlabel="annotated slices", ylabel="mean IoU on the whole volume")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return png_of_figure(figure, dpi=120)


def _strategies(result: Comparison) -> list[str]:
    """Return the strategies of a data set, ours first, then those that are compared now."""
    order = list(COLOURS)
    return sorted(result["iou"], key=lambda name: order.index(name) if name in order else len(order))


def _table(result: Comparison) -> Table:
    head = (
        "strategy",
        "area under the curve",
        "where unannotated",
        "slices for 95 % of dense, for good",
        "voxels labelled in them",
        "voxel edges between classes in them",
        "slices for 95 % for the first time",
        "foreground efficiency",
        "next_slice's area is larger by",
        "p",
        "p corrected (Holm)",
    )
    lines = [
        (
            name,
            _mean_and_range(result["area_under_curve"][name]),
            _mean_and_range(result["area_unannotated"][name]),
            _each(result["slices_to_95_percent"][name], "d"),
            _each(result["labelled_to_95_percent"][name], ".0%"),
            _each(result["length_to_95_percent"][name], "d"),
            _each(result["slices_to_first_95_percent"][name], "d"),
            _median_and_range(result["foreground_efficiency"][name]),
            *_difference_and_p(result["paired"].get(name)),
        )
        for name in _strategies(result)
    ]
    return Table.of_texts(head, lines)


def _paired_table(results: Mapping[str, Comparison]) -> Table:
    head = ("baseline", "pairs of one volume and seed", "next_slice's area is larger by", "p", "p corrected (Holm)")
    lines = [(name, str(own["pairs"]), *_difference_and_p(own)) for name, own in compare_over_volumes(results).items()]
    return Table.of_texts(head, lines)


def _difference_and_p(paired: PairedTest | None) -> tuple[str, str, str]:
    if paired is None:
        return "", "", ""
    return (
        _or_nothing(paired["difference"], "+.3f"),
        _or_nothing(paired["p"], ".3f"),
        _or_nothing(paired["holm"], ".3f"),
    )


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _each(values: Sequence[float | None], form: str) -> str:
    return ", ".join("never" if value is None else format(value, form) for value in values)


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _median_and_range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.1f} ({min(known):.1f} to {max(known):.1f})" if known else "–"


def _describe_gains(check: GainCheck | None) -> str:
    """Say in a sentence how the gains that the server expects compare with those that followed."""
    if check is None:
        return ""
    correlation = "isn't defined" if check["spearman"] is None else f"is {check['spearman']:.2f}"
    return (
        "The gain in IoU that the server expects of a slice, against the gain of the best IoU so far that followed: "
        f"Spearman's correlation over {check['choices']} choices of {OURS} {correlation}; on average "
        f"{check['expected']:.4f} was expected, and {check['followed']:.4f} followed. {check['within']:.0%} of "
        "the gains were in the expected interval, which should hold at least 80 %."
    )


def _provenance(result: Comparison) -> str:
    dense = ", ".join(f"{iou:.3f}" for (*_, iou) in result["dense_iou"])
    return (
        f"{_medians(result)}Dense annotation: IoU {dense}. p is of Wilcoxon's signed-rank test over the seeds, "
        f"two-sided, against {', '.join(result['paired'])}; of fewer than 6 seeds it can't be below 0.05. "
        f"{_describe_gains(result['expected_gain'])} "
        f"{result['date']}, commit {', '.join(result['commits'])}, on {'; '.join(result['machines'])}."
    )


def _medians(result: Comparison) -> str:
    """Say what it takes for 95 % by medians, and how much less or more ours takes than the best baseline."""
    named = {"slices": "slices for good", "first": "slices for the first time", "length": "voxel edges"}
    sentences = []
    for what, name in named.items():
        medians, saved = result["medians"][what], result["saved"][what]
        if not medians:
            continue
        each = ", ".join(
            f"{one} {'never' if (n := medians[one]) is None else f'{n:g}'}"
            for one in _strategies(result)
            if one in medians
        )
        compared = "" if saved is None else f": {abs(saved):.0%} {'less' if saved >= 0 else 'more'} than the best other"
        sentences.append(f"For 95 % of dense, medians of {name}: {each}{compared}. ")
    return "".join(sentences)
