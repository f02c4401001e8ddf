"""The report of simulated annotators: curves of IoU over slices, and how the strategies compare."""

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.core.files import replacing
from lib.report.demo_report import html_table, image_tag, page, png_of_figure

from .annotators import ENOUGH, enough_iou
from .comparison import compare_over_volumes
from .strategies import BASELINES, OURS, STRATEGIES

COLOURS = {
    "next_slice": "#d55e00",
    "any_axis": "#a6761d",
    "by_class": "#e69f00",
    "by_entropy": "#8c564b",
    "by_flips": "#cc79a7",
    "by_statistics": "#f0e442",
    "by_change": "#bcbd22",
    "by_features": "#e7298a",
    "by_cost": "#7570b3",
    "mean_entropy": "#56b4e9",
    "with_noise": "#17becf",
    "alternating": "#000000",
    "evenly_spaced": "#0072b2",
    "random": "#999999",
    "foreground_random": "#009e73",
}

EXPLANATION = (
    "Each annotator starts with one slice along each axis; after each training a further slice is chosen, annotated "
    "from the truth, and learnt from. IoU (intersection over union, mean over the foreground classes) is measured on "
    "the whole volume, as that is what an annotator gets, and in the table also where nothing is annotated yet. Lines "
    "are means over the seeds, bands reach from the worst to the best seed. The dotted line is what dense annotation "
    "leads to in as many training steps, the dashed line 95 % of what it leads to at last."
)

OF_THESE = (
    "The test tells chance apart on these volumes: the seeds of one volume are alike, so it says little about others."
)


def write_simulate_report(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the HTML file, renamed into place, and beside it the curves of each data set as ``simulate/DATA.png``.

    Args:
        path: the file.
        results: by data set, see ``comparison.summarise``.
    """
    sections = ["<h1>Where to paint next: simulated annotators</h1>", f"<p>{escape(EXPLANATION)}</p>"]
    for data, result in results.items():
        sections.append(f"<h2>{escape(data)}</h2>")
        curves = draw_curves(result)
        with replacing(path.parent / "simulate" / f"{data.replace(', ', '_')}.png") as beside:
            beside.write_bytes(curves)
        sections.append(image_tag(curves, f"IoU over annotated slices, {data}"))
        sections.append(_table(result))
        sections.append(f"<p class=small>{escape(_provenance(result))}</p>")
    if len(results) > 1:
        sections += ["<h2>All of these volumes</h2>", _paired_table(results), f"<p class=small>{escape(OF_THESE)}</p>"]
    with replacing(path) as beside:
        beside.write_text(page("Simulated annotators", sections), encoding="utf-8")


def draw_curves(result: Mapping[str, Any]) -> bytes:
    """Draw IoU over the number of slices for each strategy of a data set.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in STRATEGIES:
        if name not in result["iou"]:
            continue
        slices, curves = result["slices"][name], np.array(result["iou"][name])
        # Of up to fifteen, those that it is about are to be seen.
        is_compared = name in (OURS, *BASELINES)
        line = {"linewidth": 2.5 if name == OURS else 1.5} if is_compared else {"linewidth": 1, "linestyle": "-."}
        axes.plot(slices, curves.mean(axis=0), color=COLOURS[name], label=name, **line)
        if is_compared:
            band = curves.min(axis=0), curves.max(axis=0)
            axes.fill_between(slices, *band, color=COLOURS[name], alpha=0.12, linewidth=0)
    slices, dense = next(iter(result["slices"].values())), np.mean(result["dense_iou"], axis=0)
    axes.plot(slices, dense, "k:", linewidth=1, label="dense, as many steps")
    axes.axhline(
        enough_iou(result["dense_iou"]), color="k", linestyle="--", linewidth=1, label=f"{ENOUGH:.0%} of dense"
    )
    axes.set(xlabel="annotated slices", ylabel="mean IoU on the whole volume")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return png_of_figure(figure, dpi=120)


def _table(result: Mapping[str, Any]) -> str:
    head = (
        "strategy",
        "area under the curve",
        "where unannotated",
        "slices for 95 % of dense, for good",
        "voxels labelled in them",
        "voxel edges between classes in them",
        "slices for 95 % for the first time",
        "next_slice's area is larger by",
        "p",
        "p corrected (Holm)",
    )
    lines = []
    for name in STRATEGIES:
        if name not in result["iou"]:
            continue
        lines.append(
            (
                name,
                *(_mean_and_range(result[area][name]) for area in ("area_under_curve", "area_unannotated")),
                *(
                    ", ".join("never" if one is None else form.format(one) for one in result[what][name])
                    for what, form in (
                        ("slices_to_95_percent", "{}"),
                        ("labelled_to_95_percent", "{:.0%}"),
                        ("length_to_95_percent", "{}"),
                        ("slices_to_first_95_percent", "{}"),
                    )
                ),
                *_difference_and_p(result["paired"].get(name, {})),
            )
        )
    return html_table(head, [list(map(escape, line)) for line in lines])


def _paired_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("baseline", "pairs of one volume and seed", "next_slice's area is larger by", "p", "p corrected (Holm)")
    lines = [
        (name, str(own["pairs"]), *_difference_and_p(own))
        for name, own in compare_over_volumes(results).items()
        if own["pairs"]
    ]
    return html_table(head, [list(map(escape, line)) for line in lines])


def _difference_and_p(paired: Mapping[str, Any]) -> tuple[str, ...]:
    forms = {"difference": "{:+.3f}", "p": "{:.3f}", "holm": "{:.3f}"}
    return tuple("" if paired.get(key) is None else form.format(paired[key]) for key, form in forms.items())


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _provenance(result: Mapping[str, Any]) -> str:
    dense = ", ".join(f"{iou:.3f}" for (*_, iou) in result["dense_iou"])
    return (
        f"{_medians(result)}Dense annotation: IoU {dense}. p is of Wilcoxon's signed-rank test over the seeds, "
        f"two-sided, against {', '.join(BASELINES)}; of fewer than 6 seeds it can't be below 0.05, of fewer than 7 not "
        f"when corrected. {result['date']}, commit {', '.join(result['commits'])}, on {'; '.join(result['machines'])}."
    )


def _medians(result: Mapping[str, Any]) -> str:
    """Say what it takes for 95 % by medians, and how much less or more ours takes than the best baseline."""
    named = {"slices": "slices for good", "first": "slices for the first time", "length": "voxel edges"}
    sentences = []
    for what, name in named.items():
        medians, saved = result["medians"][what], result["saved"][what]
        if not {OURS, *BASELINES} <= medians.keys():
            continue
        each = ", ".join(f"{one} {'never' if (n := medians[one]) is None else f'{n:g}'}" for one in (OURS, *BASELINES))
        compared = "" if saved is None else f": {abs(saved):.0%} {'less' if saved >= 0 else 'more'} than the best other"
        sentences.append(f"For 95 % of dense, medians of {name}: {each}{compared}. ")
    return "".join(sentences)
