"""The results as a picture: how many times as fast we are, beside what was asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

REACHED, MISSED, LINE = "#3f7f5f", "#c0603f", "#202020"


def draw_picture(results: Mapping[str, Any], path: Path) -> None:
    """Write a PNG with a bar per comparison, and a line across it at the ratio asked for.

    Args:
        results: as in ``results.json``.
        path: of the picture.
    """
    entries = {key: entry for key, entry in sorted(results.items(), reverse=True) if "ratio" in entry}
    if not entries:
        return
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.5 * len(entries)), layout="constrained")
    for row, entry in enumerate(entries.values()):
        ratio, (low, high) = entry["ratio"], entry["spread"]
        axes.barh(row, ratio, height=0.6, color=REACHED if ratio >= entry["bar"] else MISSED)
        # Where runs were few, the ratio of the medians may lie outside the ratios of the runs.
        axes.plot([low, high], [row, row], color=LINE, linewidth=1)
        axes.plot([entry["bar"]] * 2, [row - 0.42, row + 0.42], color=LINE, linewidth=2.5)
        times = f"{ratio:.1f}×   {_seconds(entry['ours'])} against {_seconds(entry['theirs'])}"
        axes.annotate(
            times, (max(ratio, high, entry["bar"]), row), (6, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(entries)), list(entries), fontsize=9)
    axes.set_xlabel(
        "times as fast as theirs (medians; thin line: lowest to highest of the runs; thick line: asked for)"
    )
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.45 * max(max(e["ratio"], e["spread"][1], e["bar"]) for e in entries.values()))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"
