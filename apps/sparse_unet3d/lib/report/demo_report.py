"""The demo's report: one HTML file with pictures, for people who know the specimen but not the method."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from lib.core.colours import colours
from lib.core.labels import LabelScheme
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.volume import Volume

from .demo_result import DemoResult, Epoch, VolumeScores
from .page import Legend, Shown, Table, render, two_digits, write_page
from .pictures import AXES, CHANNEL_NAMES, PICTURE_PIXELS, composite, painted, png_of, png_of_figure, view

# Slices this close to an annotated one look like it and would flatter the model.
MARGIN = 3


@dataclass(frozen=True, eq=False)
class Segmented:
    """A volume with its maps, which are (X, Y, Z) on its grid.

    Args:
        id: the image's id on the server.
        volume: the image.
        annotation: 0 unlabelled, 1 … K+1; all 0 for a volume that nobody annotated.
        prediction: 0 background, 1 … K.
        truth: 0 background, 1 … K.
    """

    id: str
    volume: Volume
    annotation: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    truth: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class _Row:
    """A slice: its axis and index, the direction in which its rows run, and its pictures."""

    place: str
    down: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class _Section:
    """What the page says of a volume."""

    id: str
    scores: VolumeScores
    shape: str
    spacing: str
    channels: str
    rows: Sequence[_Row]


def write_demo_report(path: Path, result: DemoResult, segmented: Sequence[Segmented], scheme: LabelScheme) -> None:
    """Write the HTML file, renamed into place.

    Args:
        path: the file.
        result: what ``report.json`` holds.
        segmented: the volumes of ``result``, in the same order.
        scheme: the label scheme.
    """
    write_page(path, demo_page(result, segmented, scheme))


def demo_page(result: DemoResult, segmented: Sequence[Segmented], scheme: LabelScheme) -> str:
    """Return the HTML of the report; see ``write_demo_report``."""
    table = colours(scheme)
    curve = training_curve(result["training"]["history"], table)
    return render(
        "demo.html.j2",
        result=result,
        annotated=sum(volume["annotated"] for volume in result["volumes"]),
        scores=_scores(result, scheme),
        legend=Legend.of(scheme, table),
        volumes=[_section(case, own, table) for case, own in zip(segmented, result["volumes"], strict=True)],
        curve=Shown(curve, "Loss and IoU over the minutes of training"),
    )


def best_slice(case: Segmented, axis: int) -> int:
    """Choose the slice to show along an axis: away from annotated ones, with most classes, with most foreground."""
    others = tuple(other for other in range(3) if other != axis)
    classes = np.zeros(case.truth.shape[axis], int)
    for value in range(1, int(case.truth.max()) + 1):
        classes += (case.truth == value).any(axis=others)
    foreground = np.count_nonzero(case.truth, axis=others)
    near_paint = binary_dilation((case.annotation != 0).all(axis=others), iterations=MARGIN)
    return int(np.lexsort((foreground, classes, ~near_paint))[-1])


def training_curve(history: Sequence[Epoch], table: NDArray[np.uint8]) -> bytes:
    """Draw loss and IoU over the minutes of training.

    Args:
        history: what the trainer reported, epoch by epoch.
        table: colours by annotation value.

    Returns:
        A PNG file.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, iou = figure.subplots(1, 2)
    loss.plot([e["seconds"] / 60 for e in history], [e["loss"] for e in history], color="black", marker=".")
    loss.set(title="Loss (lower is better)", ylabel="loss", ylim=(0, None))
    # The trainer doesn't validate after every epoch; between two validations it repeats the last scores.
    scored = [
        (epoch["seconds"] / 60, epoch["iou"])
        for epoch, before in zip(history, [None, *(e["iou"] for e in history)], strict=False)
        if epoch["iou"] is not None and epoch["iou"] != before
    ]
    for value, name in enumerate(scored[-1][1] if scored else (), start=1):
        iou.plot(
            [minutes for minutes, _ in scored],
            [np.nan if scores[name] is None else scores[name] for _, scores in scored],
            color=table[value] / 255,
            marker=".",
            label=name,
        )
        iou.legend(loc="lower right")
    iou.set(title=f"{history[-1]['metric']} (higher is better)", ylabel="IoU", ylim=(0, 1))
    for axes in (loss, iou):
        axes.set(xlabel="minutes of training", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return png_of_figure(figure, dpi=130)


def _scores(result: DemoResult, scheme: LabelScheme) -> Table:
    head = ["volume", "painted voxels", *(f"IoU {name}" for name in scheme.foreground), "mean IoU"]
    rows = [
        [
            volume["id"],
            f"{volume['labelled_voxels_percent']:.1f} %" if volume["annotated"] else "none",
            *(two_digits(volume["iou"][name]) for name in scheme.foreground),
            two_digits(volume["mean_foreground_iou"]),
        ]
        for volume in result["volumes"]
    ]
    for means, title in (
        (result["semi_automated"], "mean of annotated volumes"),
        (result["fully_automated"], "mean of unannotated volumes"),
    ):
        own = [two_digits(means["iou"][name]) for name in scheme.foreground]
        rows.append([title, "", *own, two_digits(means["mean_foreground_iou"])])
    return Table.of_texts(head, rows)


def _section(case: Segmented, scores: VolumeScores, table: NDArray[np.uint8]) -> _Section:
    names = CHANNEL_NAMES[min(case.volume.channels, 3)]
    image = scale_intensity(case.volume.array)
    # One scale for all pictures of a volume: its longest side gets the full width.
    longest = max(length * count for length, count in zip(case.volume.spacing, case.volume.shape, strict=True))
    return _Section(
        case.id,
        scores,
        shape=" × ".join(map(str, case.volume.shape)),
        spacing=" × ".join(f"{length:.3g}" for length in case.volume.spacing),
        channels=", ".join(f"channel {number} {name}" for number, name in enumerate(names, start=1)),
        rows=[_row(case, image, axis, PICTURE_PIXELS / longest, table) for axis in (2, 1, 0)],
    )


def _row(case: Segmented, image: NDArray[np.float32], axis: int, scale: float, table: NDArray[np.uint8]) -> _Row:
    layout = view(case.volume, axis, best_slice(case, axis))
    plane = layout.of(image)
    pictures = {
        "image": composite(plane),
        "annotation": painted(plane, layout.of(case.annotation), table),
        "prediction": painted(plane, layout.of(case.prediction), table),
        "truth": painted(plane, layout.of(case.truth), table),
    }
    spacing, shape = case.volume.spacing, case.volume.shape
    width = spacing[layout.across] * shape[layout.across] * scale
    height = spacing[layout.down] * shape[layout.down] * scale
    across, down = AXES[layout.across], AXES[layout.down]
    caption = f"← {across}" if layout.across in layout.flips else f"{across} →"
    place = f"{AXES[axis]} = {layout.index}"
    return _Row(
        place,
        f"↑ {down}" if layout.down in layout.flips else f"↓ {down}",
        [
            Shown(png_of(picture), f"{what} of {case.id}, {place}", caption, width, height)
            for what, picture in pictures.items()
        ],
    )
