"""The report of the experiments: tables beside the paper's, curves, slices and surfaces in one HTML file."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lib.core.files import replacing
from lib.core.volumes.intensity import scale_intensity
from lib.report.demo_report import (
    FOREGROUND_COLOURS,
    PICTURE_PIXELS,
    colours,
    composite,
    html_table,
    image_tag,
    legend,
    page,
    painted,
    png_of,
    png_of_figure,
    show,
    view,
)

from .figure3 import draw_surfaces
from .methods import METHODS
from .run import Record, shown_labels
from .study import Study
from .tables import ROWS

EXPLANATION = (
    "IoU (intersection over union) is the overlap of a segmentation with the truth: 1 is perfect, 0 is none. A number "
    "is the mean over the foreground classes ({classes}), of all voxels of the test slices together but for those that "
    "training slices cross; the paper does not say which classes its numbers are of. Small, below each number: the "
    "classes one by one, and the lowest and highest of several seeds; in Table 2 the volumes one by one. BN is batch "
    "normalisation. The paper's numbers are of its own volumes, which were not published: compare the order of the "
    "methods, not the digits."
)

CURVE_COLOURS = {
    "2d_bn": "#999999",
    "3d_no_bn": "#e69f00",
    "3d_bn": "#0072b2",
    "default": "#d55e00",
    "interpolation": "#009e73",
    "pytorch3dunet": "#cc79a7",
    "nnunetv2": "#56b4e9",
}


def write_report(path: Path, results: Path, records: Mapping[str, Sequence[Record]], study: Study, dense: Path) -> None:
    """Write the HTML file from the tables that there are, and Figure 3 as ``figure3.png`` beside it.

    Args:
        path: the file.
        results: folder with ``table1.json``, …
        records: by table, whose slices are shown.
        study: the volumes.
        dense: Figure 3's dense segmentation; not there: the picture that was drawn before is shown.
    """
    tables = {name: json.loads(file.read_text()) for name in ROWS if (file := results / f"{name}.json").is_file()}
    classes = ", ".join(study.scheme.foreground)
    sections = ["<h1>The paper's experiments</h1>", f"<p>{escape(EXPLANATION.format(classes=classes))}</p>"]
    sections.append(legend(study.scheme, colours(study.scheme)))
    for name, table in tables.items():
        own = records.get(name, ())
        sections.append(f"<h2>{escape(table['caption'])}</h2>")
        sections.append(_by_slices(table) if name == "table2" else _table(table))
        if name == "table2":
            # Its slices, of each volume and number of slices, would fill pages.
            sections.append(image_tag(draw_curve(table), "IoU over the labelled voxels"))
        elif name == "figure3":
            sections.append(_figure(results / "figure3.png", study, own, dense))
        else:
            sections += _slices(own, study)
        sections.append(f"<p class=small>{escape(_provenance(table))}</p>")
    with replacing(path) as beside:
        beside.write_text(page("The paper's experiments", sections), encoding="utf-8")


def _methods(table: Mapping[str, Any]) -> list[str]:
    return [method for method in METHODS if any(method in row for row in table["rows"])]


def _table(table: Mapping[str, Any]) -> str:
    methods = _methods(table)
    beside = [method for method in methods if any(method in row.get("paper", {}) for row in table["rows"])]
    head = ["test", *(METHODS[method].title for method in methods), *(f"paper: {METHODS[m].title}" for m in beside)]
    lines = [
        [escape(row["test"].replace("_", " ")), *(_cell(row, method) for method in methods), *_paper(row, beside)]
        for row in table["rows"]
    ]
    average, seeds = table["average"], table["average_seeds"]
    if len(lines) > 1:
        averages = [
            f"<b>{_digits(average.get(method))}</b>{_note(_spread(seeds.get(method, ())))}" for method in methods
        ]
        lines.append(["<b>average</b>", *averages, *_paper(average, beside)])
    return html_table(head, lines)


def _paper(row: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    return [_digits(row.get("paper", {}).get(method)) for method in methods]


def _cell(row: Mapping[str, Any], method: str) -> str:
    if method not in row:
        return "–"
    return _digits(row[method]) + _note(_details(row, method))


def _details(row: Mapping[str, Any], method: str) -> str:
    """Return the IoU of each class, and the spread over the seeds."""
    classes = ", ".join(f"{name} {show(value)}" for name, value in row["classes"][method].items())
    return "; ".join(filter(None, (classes, _spread(row["seeds"][method]))))


def _spread(seeds: Sequence[float]) -> str:
    return f"{min(seeds):.3f} to {max(seeds):.3f}" if len(seeds) > 1 else ""


def _note(text: str) -> str:
    return f"<br><span class=note>{escape(text)}</span>" if text else ""


def _by_slices(table: Mapping[str, Any]) -> str:
    methods = _methods(table)
    head = ["slices x, y, z", "labelled", *(METHODS[m].title for m in methods), "paper: labelled", "paper: 3-D with BN"]
    lines = []
    for row in table["rows"]:
        paper = row.get("paper", {})
        cells = []
        for method in methods:
            details = [_details(row, method)] if method in row else []
            if method in row["volumes"]:
                details.append("volumes " + ", ".join(f"{value:.3f}" for value in row["volumes"][method].values()))
            cells.append(_digits(row.get(method)) + _note("; ".join(details)))
        lines.append(
            [
                ", ".join(map(str, row["slices"])),
                _percent(row.get("labelled_percent")),
                *cells,
                _percent(paper.get("labelled_percent")),
                _digits(paper.get("3d_bn")) + _note(", ".join(f"{value:.3f}" for value in paper.get("volumes", ()))),
            ]
        )
    return html_table(head, lines)


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def draw_curve(table: Mapping[str, Any]) -> bytes:
    """Draw IoU over the labelled voxels of Table 2, the mean over the volumes as a line and each volume as a dot.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for method in _methods(table):
        rows = [row for row in table["rows"] if method in row]
        colour = CURVE_COLOURS[method]
        labelled = [row["labelled_percent"] for row in rows]
        axes.plot(labelled, [row[method] for row in rows], color=colour, marker="o", label=METHODS[method].title)
        for row in rows:
            values = list(row["volumes"][method].values())
            axes.plot([row["labelled_percent"]] * len(values), values, ".", color=colour, alpha=0.5)
    paper = [row["paper"] for row in table["rows"] if "paper" in row]
    if paper:
        axes.plot(
            [row["labelled_percent"] for row in paper],
            [row["3d_bn"] for row in paper],
            color="black",
            linestyle="--",
            marker="s",
            label="the paper's, on its own volumes",
        )
    axes.set(xlabel="labelled voxels in percent", ylabel="mean IoU", ylim=(0, 1), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return png_of_figure(figure, dpi=120)


def _slices(records: Sequence[Record], study: Study) -> list[str]:
    """Show for each row the slice that its runs keep: image, truth, and what each method made of it."""
    table = colours(study.scheme)
    sections = []
    for row in dict.fromkeys(record["row"] for record in records):
        # Of each method the first seed: records are sorted by seed.
        own = {r["method"]: r for r in reversed(records) if r["row"] == row}
        shown = next(iter(own.values()))["shown"]
        subject = study.subjects[shown["volume"]]
        layout = view(subject.volume, shown["axis"], shown["index"])
        plane = layout.of(scale_intensity(subject.volume.array))
        truth = np.where(subject.truth == study.scheme.background_value, 0, subject.truth)
        pictures = {"image": composite(plane), "truth": painted(plane, layout.of(truth), table)}
        for method in METHODS:
            if method in own:
                labels = _in_volume(own[method], subject.truth.shape)
                pictures[METHODS[method].title] = painted(plane, layout.of(labels), table)
        width = PICTURE_PIXELS * 0.75
        height = width * plane.shape[1] * subject.volume.spacing[layout.down]
        height /= plane.shape[2] * subject.volume.spacing[layout.across]
        cells = [
            f"<figure>{image_tag(png_of(picture), f'{what}, {row}', width, height)}"
            f"<figcaption>{escape(what)}</figcaption></figure>"
            for what, picture in pictures.items()
        ]
        where = f"{row.replace('_', ' ')}: {shown['volume']}, slice {'xyz'[shown['axis']]} = {shown['index']}"
        sections.append(f"<p class=small>{escape(where)}</p><div class=strip>{''.join(cells)}</div>")
    return sections


def _in_volume(record: Record, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an empty volume (X, Y, Z) with the slice that a record keeps in its place."""
    labels = np.zeros(shape, dtype=np.uint8)
    shown = record["shown"]
    np.moveaxis(labels, shown["axis"], 0)[shown["index"]] = shown_labels(record)
    return labels


def _figure(path: Path, study: Study, records: Sequence[Record], dense: Path) -> str:
    """Draw the surfaces if the segmentation is there; show them beside a slice of the recording."""
    *_, (name, subject) = study.subjects.items()
    if dense.is_file():
        with np.load(dense) as kept:
            count = len(study.scheme.foreground)
            names = [FOREGROUND_COLOURS[number % len(FOREGROUND_COLOURS)] for number in range(count)]
            picture = draw_surfaces(kept["labels"], subject.volume.spacing, names)
        with replacing(path) as beside:
            beside.write_bytes(picture)
    if not path.is_file():
        return ""
    return image_tag(path.read_bytes(), f"Dense segmentation of {name} as surfaces") + "".join(_slices(records, study))


def _provenance(table: Mapping[str, Any]) -> str:
    annotated = ", ".join(f"{name} {tuple(counts)}" for name, counts in table["annotated_slices"].items())
    commits = ", ".join(f"{method} {' and '.join(own)}" for method, own in table["commits"].items())
    return (
        f"{table['command']}; {table['runs']} runs, {table['minutes']:.0f} minutes of learning, {table['date']}; "
        f"slices across x, y, z that count as annotated: {annotated}; commits {commits}; "
        f"{', '.join(table['machines'])}"
    )
