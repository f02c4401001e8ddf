"""The report of simulated annotators: curves of IoU over slices, and how the strategies compare."""

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..commands.report import html_table, image_tag, page, png_of_figure
from ..core.files import replacing
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


def write_simulate_report(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the HTML file, renamed into place.

    Args:
        path: the file.
        results: by data set, see ``comparison.summarise``.
    """
    sections = ["<h1>Where to paint next: simulated annotators</h1>", f"<p>{escape(EXPLANATION)}</p>"]
    for data, result in results.items():
        sections.append(f"<h2>{escape(data)}</h2>")
        sections.append(image_tag(draw_curves(result), f"IoU over annotated slices, {data}"))
        sections.append(_table(result))
        sections.append(f"<p class=small>{escape(_provenance(result))}</p>")
    if len(results) > 1:
        sections += ["<h2>All of these volumes</h2>", _paired_table(results)]
    with replacing(path) as beside:
        beside.write_text(page("Simulated annotators", sections), encoding="utf-8")


def draw_curves(result: Mapping[str, Any]) -> bytes:
    """Draw IoU over the number of slices for each strategy of a data set.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in STRATEGIES:
        if name not in result["iou"]:
            continue
        slices, curves = result["slices"][name], np.array(result["iou"][name])
        width = 2.5 if name == OURS else 1.5
        axes.plot(slices, curves.mean(axis=0), color=COLOURS[name], linewidth=width, label=name)
        axes.fill_between(slices, curves.min(axis=0), curves.max(axis=0), color=COLOURS[name], alpha=0.12, linewidth=0)
    slices, dense = next(iter(result["slices"].values())), np.mean(result["dense_iou"], axis=0)
    axes.plot(slices, dense, "k:", linewidth=1, label="dense, as many steps")
    axes.axhline(
        enough_iou(result["dense_iou"]), color="k", linestyle="--", linewidth=1, label=f"{ENOUGH:.0%} of dense"
    )
    axes.set(xlabel="annotated slices", ylabel="mean IoU")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return png_of_figure(figure, dpi=120)


def _table(result: Mapping[str, Any]) -> str:
    head = (
        "strategy",
        "area under the curve",
        "where unannotated",
        "slices for 95 % of dense",
        "voxels labelled in them",
        "voxel edges between classes in them",
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
    saved = result["saved"]
    text = "" if saved is None else f"{OURS} saves {saved:.0%} of the best baseline's slices (medians); "
    dense = ", ".join(f"{iou:.3f}" for (*_, iou) in result["dense_iou"])
    return (
        f"{text}dense annotation: IoU {dense}; p of Wilcoxon's signed-rank test over the seeds, two-sided, against "
        f"{', '.join(BASELINES)} (of fewer than 6 seeds it can't be below 0.05); {result['date']}, commit "
        f"{', '.join(result['commits'])}, on {'; '.join(result['machines'])}"
    )
