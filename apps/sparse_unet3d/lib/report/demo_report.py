"""The demo's report: one HTML file with pictures, for people who know the specimen and not the method."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from lib.core.files import replacing
from lib.core.labels import LabelScheme
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.volume import Volume

# Okabe and Ito's colours, which people with colour-blindness can tell apart; the first two are the samples' classes.
FOREGROUND_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00")
BACKGROUND_COLOUR = "#cc79a7"
CHANNEL_COLOURS = {
    1: ((1, 1, 1),),
    2: ((1, 0, 1), (0, 1, 0)),
    3: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
CHANNEL_NAMES = {1: ("grey",), 2: ("magenta", "green"), 3: ("red", "green", "blue")}
AXES = "xyz"
PICTURE_PIXELS = 270
DIMMED = 0.45
# Slices this close to an annotated one look like it and would flatter the model.
MARGIN = 3

Picture = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Segmented:
    """A volume and all that is known of it; the maps are (X, Y, Z) on its grid.

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
class View:
    """How a slice is laid out, so that it looks as in 3D Slicer.

    Args:
        axis: the axis that the slice is perpendicular to.
        index: its place on that axis.
        across: the array's axis that runs from left to right.
        down: the array's axis that runs from top to bottom.
        flips: the axes among the two that run the other way, from right to left or bottom to top.
    """

    axis: int
    index: int
    across: int
    down: int
    flips: frozenset[int]

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Take the slice out of (X, Y, Z) or (C, X, Y, Z): (rows, columns) or (C, rows, columns)."""
        lead = array.ndim - 3
        plane = np.take(array, self.index, axis=lead + self.axis)
        if self.across < self.down:
            plane = plane.swapaxes(-1, -2)
        if self.across in self.flips:
            plane = plane[..., ::-1]
        if self.down in self.flips:
            plane = plane[..., ::-1, :]
        return plane


def view(volume: Volume, axis: int, index: int) -> View:
    """Lay out a slice as 3D Slicer's axial, coronal or sagittal view does.

    Slicer shows left and posterior on the right, and posterior and inferior below (sagittal views: posterior right).
    """
    affine = volume.affine if volume.slicer_affine is None else volume.slicer_affine
    codes = nibabel.aff2axcodes(affine)
    # Each letter's world axis, and whether the voxel axis runs towards what Slicer shows on the right or below.
    world = {other: "RAS".find(code) if code in "RAS" else "LPI".find(code) for other, code in enumerate(codes)}
    across, down = sorted((other for other in range(3) if other != axis), key=lambda other: world[other])
    flips = frozenset(other for other in (across, down) if codes[other] not in "LPI")
    return View(axis, index, across, down, flips)


def best_slice(case: Segmented, axis: int) -> int:
    """Choose the slice to show along an axis: away from annotated ones, most classes, then most foreground."""
    others = tuple(other for other in range(3) if other != axis)
    classes = np.zeros(case.truth.shape[axis], int)
    for value in range(1, int(case.truth.max()) + 1):
        classes += (case.truth == value).any(axis=others)
    foreground = np.count_nonzero(case.truth, axis=others)
    near_paint = binary_dilation((case.annotation != 0).all(axis=others), iterations=MARGIN)
    return int(np.lexsort((foreground, classes, ~near_paint))[-1])


def colours(scheme: LabelScheme) -> NDArray[np.uint8]:
    """Give each class its colour, (K+2, 3) by annotation value; entry 0 is never shown."""
    count = len(scheme.foreground)
    table = ["#000000", *(FOREGROUND_COLOURS[i % len(FOREGROUND_COLOURS)] for i in range(count)), BACKGROUND_COLOUR]
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in table], np.uint8)


def composite(plane: NDArray[np.float32]) -> Picture:
    """Turn a slice's channels (C, rows, columns) in 0 … 1 into RGB; at most the first three are shown."""
    shown = CHANNEL_COLOURS[min(len(plane), 3)]
    rgb = np.tensordot(plane[: len(shown)], np.array(shown, np.float32), axes=(0, 0))
    return np.clip(rgb * 255, 0, 255).astype(np.uint8)


def painted(plane: NDArray[np.float32], labels: NDArray[np.integer[Any]], table: NDArray[np.uint8]) -> Picture:
    """Lay labels over the dimmed grey image: full colour where a label is, the image where it is 0."""
    grey = (plane.mean(axis=0) * 255 * DIMMED).astype(np.uint8)
    return np.where((labels == 0)[..., np.newaxis], grey[..., np.newaxis], table[labels])


def training_curve(history: Sequence[Mapping[str, Any]], table: NDArray[np.uint8]) -> bytes:
    """Draw loss and IoU over the minutes of training.

    Args:
        history: what the trainer reported, epoch by epoch.
        table: colours by annotation value.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, iou = figure.subplots(1, 2)
    loss.plot([e["seconds"] / 60 for e in history], [e["loss"] for e in history], color="black", marker=".")
    loss.set(title="Loss (lower is better)", ylabel="loss", ylim=(0, None))
    # Validation takes time of its own and is not done after each epoch; between, the last scores are repeated.
    scored = [e for before, e in pairwise([{"iou": None}, *history]) if e["iou"] != before["iou"]]
    for value, name in enumerate(scored[-1]["iou"] if scored else (), start=1):
        iou.plot(
            [e["seconds"] / 60 for e in scored],
            [np.nan if e["iou"][name] is None else e["iou"][name] for e in scored],
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


def write_report(path: Path, report: Mapping[str, Any], segmented: Sequence[Segmented], scheme: LabelScheme) -> None:
    """Write the HTML file, renamed into place.

    Args:
        path: the file.
        report: what ``report.json`` says.
        segmented: the volumes in the order to show them.
        scheme: the label scheme.
    """
    with replacing(path) as beside:
        beside.write_text(render(report, segmented, scheme), encoding="utf-8")


def render(report: Mapping[str, Any], segmented: Sequence[Segmented], scheme: LabelScheme) -> str:
    """Return the HTML of the report; see ``write_report``."""
    table = colours(scheme)
    sections = [
        f"<h1>{escape(_headline(report))}</h1>",
        "<p>IoU (intersection over union) is the overlap of the model's segmentation with the truth: 1 is perfect, "
        "0 is none. It is measured on voxels that nobody painted.</p>",
        _scores(report, scheme),
        "<h2>Pictures</h2>",
        "<p>One slice per axis and volume, where nobody painted that slice; lines in the annotation are slices painted "
        "across it. Slices lie as in 3D Slicer.</p>",
        legend(scheme, table),
        *(_volume(case, scores, table) for case, scores in zip(segmented, report["volumes"], strict=True)),
        "<h2>Training</h2>",
        image_tag(training_curve(report["training"]["history"], table), "Loss and IoU over the minutes of training"),
        f"<p>{escape(report['training']['message'])}</p>",
        f"<p class=small>{escape(_provenance(report))}</p>",
    ]
    return page("Sparse U-Net demo", sections)


def _headline(report: Mapping[str, Any]) -> str:
    annotated = sum(volume["annotated"] for volume in report["volumes"])
    per_axis = report["slices_per_axis"]
    minutes = report["training"]["seconds"] / 60
    return (
        f"From {per_axis} annotated slice{'s' if per_axis > 1 else ''} per axis in {annotated} "
        f"volume{'s' if annotated > 1 else ''} ({report['labelled_voxels_percent']:.1f} % of their voxels) and "
        f"{minutes:.0f} minutes of training, the model segments the rest of "
        f"{'these volumes' if annotated > 1 else 'this volume'} with a mean IoU of "
        f"{show(report['semi_automated']['mean_foreground_iou'])}, and a volume that nobody annotated with "
        f"{show(report['fully_automated']['mean_foreground_iou'])}."
    )


def _provenance(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return (
        f"{report['command']}; {report['seconds'] / 60:.1f} minutes in all, of which training "
        f"{report['training']['seconds'] / 60:.1f}; seed {report['seed']}; {versions}"
    )


def _scores(report: Mapping[str, Any], scheme: LabelScheme) -> str:
    head = ["volume", "painted voxels", *(f"IoU {name}" for name in scheme.foreground), "mean IoU"]
    rows = [
        [
            volume["id"],
            f"{volume['labelled_voxels_percent']:.1f} %" if volume["annotated"] else "none",
            *(show(volume["iou"][name]) for name in scheme.foreground),
            show(volume["mean_foreground_iou"]),
        ]
        for volume in report["volumes"]
    ]
    for kind, title in (("semi_automated", "annotated volumes"), ("fully_automated", "unannotated volumes")):
        scores = report[kind]
        row = [show(scores["iou"][name]) for name in scheme.foreground]
        rows.append([f"mean of {title}", "", *row, show(scores["mean_foreground_iou"])])
    return html_table(head, [list(map(escape, row)) for row in rows])


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of a heading of texts, and rows of HTML cells."""
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def legend(scheme: LabelScheme, table: NDArray[np.uint8]) -> str:
    """Name the colours of ``colours``, in HTML."""
    entries = [(name, table[value]) for value, name in enumerate(scheme.classes, start=1)]
    chips = [
        f"<span class=entry><span class=chip style='background:{_hexadecimal(colour)}'></span>{escape(name)}</span>"
        for name, colour in entries
    ]
    note = f"{scheme.background}: painted background; the model's background and voxels not painted show the image"
    return f"<p class=legend>{''.join(chips)}<span class=note>{escape(note)}</span></p>"


def _volume(case: Segmented, scores: Mapping[str, Any], table: NDArray[np.uint8]) -> str:
    spacing = " × ".join(f"{length:.3g}" for length in case.volume.spacing)
    shape = " × ".join(map(str, case.volume.shape))
    painting = "annotated" if scores["annotated"] else "nobody annotated this volume"
    channels = min(case.volume.channels, 3)
    shown = ", ".join(f"channel {n} {name}" for n, name in enumerate(CHANNEL_NAMES[channels], start=1))
    image = scale_intensity(case.volume.array)
    # One scale for all pictures of a volume: its longest side gets the full width.
    longest = max(length * count for length, count in zip(case.volume.spacing, case.volume.shape, strict=True))
    rows = [_row(case, image, axis, PICTURE_PIXELS / longest, table) for axis in (2, 1, 0)]
    return (
        f"<h3>{escape(case.id)}: {painting}, mean IoU {show(scores['mean_foreground_iou'])}</h3>"
        f"<p class=small>{shape} voxels of {spacing} (in the unit of the image); image: {shown}</p>"
        "<div class=grid><span></span><b>image</b><b>annotation</b><b>prediction</b><b>truth</b>"
        + "".join(rows)
        + "</div>"
    )


def _row(case: Segmented, image: NDArray[np.float32], axis: int, scale: float, table: NDArray[np.uint8]) -> str:
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
    across = f"← {across}" if layout.across in layout.flips else f"{across} →"
    down = f"↑ {down}" if layout.down in layout.flips else f"↓ {down}"
    where = f"{AXES[axis]} = {layout.index}"
    cells = [
        f"<figure>{image_tag(png_of(picture), f'{what} of {case.id}, {where}', width, height)}"
        f"<figcaption>{across}</figcaption></figure>"
        for what, picture in pictures.items()
    ]
    return f"<span class=side>slice<br>{where}<br><br>{down}</span>" + "".join(cells)


def png_of(picture: Picture) -> bytes:
    """Return a picture (rows, columns, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def png_of_figure(figure: Figure, dpi: int) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def image_tag(png: bytes, alternative: str, width: float | None = None, height: float | None = None) -> str:
    """Return the HTML of a picture, in it the PNG file itself; width and height are in the screen's pixels."""
    size = f" style='width:{width:.0f}px;height:{height:.0f}px'" if width else ""
    data = base64.b64encode(png).decode()
    return f"<img alt='{escape(alternative)}'{size} src='data:image/png;base64,{data}'>"


def _hexadecimal(colour: NDArray[np.uint8]) -> str:
    return "#" + bytes(colour).hex()


def show(value: float | None) -> str:
    """Write a score with two digits, a missing one as a dash."""
    return "–" if value is None else f"{value:.2f}"


def page(title: str, sections: Sequence[str]) -> str:
    """Return a whole HTML page."""
    return _PAGE.replace("TITLE", escape(title)).replace("BODY", "\n".join(sections))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>TITLE</title>
<style>
body { font: 16px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1240px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.35em; font-weight: 600; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
h3 { margin-bottom: 0; }
table { border-collapse: collapse; }
th, td { padding: 0.25em 1em 0.25em 0; text-align: left; border-bottom: 1px solid #ddd; }
.small { font-size: 0.85em; color: #555; margin-top: 0.2em; }
.legend { position: sticky; top: 0; background: #fff; padding: 0.5em 0; border-bottom: 1px solid #ddd; }
.entry { margin-right: 1.5em; white-space: nowrap; }
.chip { display: inline-block; width: 1em; height: 1em; margin-right: 0.4em; vertical-align: -0.12em; }
.note { color: #555; font-size: 0.85em; }
.grid { display: grid; grid-template-columns: 4.5em repeat(4, max-content); gap: 0.5em 0.8em; align-items: center;
        overflow-x: auto; }
.side { font-size: 0.85em; color: #555; }
figure { margin: 0; }
figure img { display: block; image-rendering: pixelated; }
figcaption { font-size: 0.8em; color: #555; }
img { max-width: 100%; }
.grid img { max-width: none; }
.strip { display: flex; flex-wrap: wrap; gap: 0.8em; }
</style>
</head>
<body>
BODY
</body>
</html>
"""
