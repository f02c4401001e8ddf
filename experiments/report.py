"""The report of the experiments: tables beside the paper's, curves, slices and surfaces in one HTML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lib.core.colours import FOREGROUND_COLOURS, colours
from lib.core.files import replacing
from lib.core.volumes.intensity import scale_intensity
from lib.report.page import Cell, Legend, Shown, Table, render, two_digits, write_page
from lib.report.pictures import AXES, PICTURE_PIXELS, composite, painted, png_of, png_of_figure, view

from . import TEMPLATES
from .assembly import TableResult, TableRow, mean_of, methods_in, read_table
from .figure3 import draw_surfaces
from .methods import METHODS
from .records import RunRecord, shown_labels
from .study import Study
from .tables import ROWS

CURVE_COLOURS = {
    "2d_bn": "#999999",
    "3d_no_bn": "#e69f00",
    "3d_bn": "#0072b2",
    "default": "#d55e00",
    "interpolation": "#009e73",
    "pytorch3dunet": "#cc79a7",
    "nnunetv2": "#56b4e9",
}


@dataclass(frozen=True)
class _Strip:
    """Pictures of one slice, side by side."""

    place: str
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class _Section:
    """The part of the page about a table or Figure 3."""

    caption: str
    table: Table
    picture: Shown | None
    strips: Sequence[_Strip]
    provenance: str


def write_report(
    path: Path, results: Path, records: Mapping[str, Sequence[RunRecord]], study: Study, dense: Path
) -> None:
    """Write the HTML file from the tables in ``results``, and Figure 3 as ``figure3.png`` beside it.

    Args:
        path: the file.
        results: folder with ``table1.json``, …
        records: by table, the finished runs whose slices are shown.
        study: the volumes.
        dense: Figure 3's dense segmentation. If it is missing, the page shows the existing ``figure3.png``.
    """
    tables = {name: read_table(file) for name in ROWS if (file := results / f"{name}.json").is_file()}
    html = render(
        "reproduce.html.j2",
        TEMPLATES,
        classes=", ".join(study.scheme.foreground),
        legend=Legend.of(study.scheme, colours(study.scheme)),
        sections=[
            _section(name, table, records.get(name, ()), study, dense, results) for name, table in tables.items()
        ],
    )
    write_page(path, html)


def _section(
    name: str, table: TableResult, records: Sequence[RunRecord], study: Study, dense: Path, results: Path
) -> _Section:
    picture: Shown | None = None
    strips = [] if name == "table2" else _strips(records, study)
    if name == "table2":
        # Its slices, one for each volume and number of slices, would fill pages.
        picture = Shown(draw_curve(table), "IoU over the labelled voxels")
    elif name == "figure3":
        picture = _surfaces(results / "figure3.png", study, dense)
        strips = strips if picture else []
    return _Section(
        table["caption"],
        _by_slices(table) if name == "table2" else _by_row(table),
        picture,
        strips,
        _provenance(table),
    )


def _by_row(table: TableResult) -> Table:
    methods = methods_in(table)
    beside = [method for method in methods if any(method in row.get("paper", {}) for row in table["rows"])]
    head = ["test", *(METHODS[method].title for method in methods), *(f"paper: {METHODS[m].title}" for m in beside)]
    lines = [
        [
            Cell(row["test"].replace("_", " ")),
            *(Cell(_digits(mean_of(row, method)), _details(row, method)) for method in methods),
            *_paper(row.get("paper", {}), beside),
        ]
        for row in table["rows"]
    ]
    average, seeds = table["average"], table["average_seeds"]
    if len(lines) > 1:
        averages = [
            Cell(_digits(mean_of(average, method)), _spread(seeds.get(method, ())), bold=True) for method in methods
        ]
        lines.append([Cell("average", bold=True), *averages, *_paper(average.get("paper", {}), beside)])
    return Table(head, lines)


def _paper(printed: Mapping[str, object], methods: Sequence[str]) -> list[Cell]:
    return [Cell(_digits(mean_of(printed, method))) for method in methods]


def _details(row: TableRow, method: str) -> str:
    """Return the IoU of each class, and the spread over the seeds; nothing where the method isn't finished."""
    if method not in row["classes"]:
        return ""
    classes = ", ".join(f"{name} {two_digits(value)}" for name, value in row["classes"][method].items())
    return "; ".join(filter(None, (classes, _spread(row["seeds"][method]))))


def _spread(seeds: Sequence[float]) -> str:
    return f"{min(seeds):.3f} to {max(seeds):.3f}" if len(seeds) > 1 else ""


def _by_slices(table: TableResult) -> Table:
    methods = methods_in(table)
    head = ["slices x, y, z", "labelled", *(METHODS[m].title for m in methods), "paper: labelled", "paper: 3-D with BN"]
    lines = []
    for row in table["rows"]:
        paper = row.get("paper", {})
        cells = []
        for method in methods:
            details = [_details(row, method)]
            if method in row["volumes"]:
                details.append("volumes " + ", ".join(f"{value:.3f}" for value in row["volumes"][method].values()))
            cells.append(Cell(_digits(mean_of(row, method)), "; ".join(filter(None, details))))
        lines.append(
            [
                Cell(", ".join(map(str, row["slices"]))),
                Cell(_percent(row.get("labelled_percent"))),
                *cells,
                Cell(_percent(paper.get("labelled_percent"))),
                Cell(_digits(mean_of(paper, "3d_bn")), ", ".join(f"{value:.3f}" for value in paper.get("volumes", ()))),
            ]
        )
    return Table(head, lines)


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def draw_curve(table: TableResult) -> bytes:
    """Draw IoU over the labelled voxels of Table 2, the mean over the volumes as a line and each volume as a dot.

    Returns:
        A PNG.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for method in methods_in(table):
        rows = [row for row in table["rows"] if mean_of(row, method) is not None]
        colour = CURVE_COLOURS[method]
        labelled = [row["labelled_percent"] for row in rows]
        axes.plot(
            labelled,
            [mean_of(row, method) or 0.0 for row in rows],
            color=colour,
            marker="o",
            label=METHODS[method].title,
        )
        for row in rows:
            values = list(row["volumes"][method].values())
            axes.plot([row["labelled_percent"]] * len(values), values, ".", color=colour, alpha=0.5)
    paper = [row["paper"] for row in table["rows"] if "paper" in row]
    if paper:
        axes.plot(
            [row["labelled_percent"] for row in paper],
            [mean_of(row, "3d_bn") or 0.0 for row in paper],
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


def _strips(records: Sequence[RunRecord], study: Study) -> list[_Strip]:
    """Show for each row the slice that its runs keep: image, truth, and what each method made of it."""
    table = colours(study.scheme)
    strips = []
    for row in dict.fromkeys(record["row"] for record in records):
        # Records are sorted by seed: the first seed of each method is shown.
        own = {r["method"]: r for r in reversed(records) if r["row"] == row}
        kept = next(iter(own.values()))["shown"]
        subject = study.subjects[kept["volume"]]
        layout = view(subject.volume, kept["axis"], kept["index"])
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
        shown = [Shown(png_of(picture), f"{what}, {row}", what, width, height) for what, picture in pictures.items()]
        place = f"{row.replace('_', ' ')}: {kept['volume']}, slice {AXES[kept['axis']]} = {kept['index']}"
        strips.append(_Strip(place, shown))
    return strips


def _in_volume(record: RunRecord, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an empty volume (X, Y, Z) with the slice that a record keeps in its place."""
    labels = np.zeros(shape, dtype=np.uint8)
    shown = record["shown"]
    np.moveaxis(labels, shown["axis"], 0)[shown["index"]] = shown_labels(record)
    return labels


def _surfaces(path: Path, study: Study, dense: Path) -> Shown | None:
    """Draw the surfaces if the dense segmentation exists; return the picture, None where there is none."""
    *_, (name, subject) = study.subjects.items()
    if dense.is_file():
        with np.load(dense) as kept:
            count = len(study.scheme.foreground)
            names = [FOREGROUND_COLOURS[number % len(FOREGROUND_COLOURS)] for number in range(count)]
            picture = draw_surfaces(kept["labels"], subject.volume.spacing, names)
        with replacing(path) as beside:
            beside.write_bytes(picture)
    return Shown(path.read_bytes(), f"Dense segmentation of {name} as surfaces") if path.is_file() else None


def _provenance(table: TableResult) -> str:
    annotated = ", ".join(f"{name} {tuple(counts)}" for name, counts in table["annotated_slices"].items())
    commits = ", ".join(f"{method} {' and '.join(own)}" for method, own in table["commits"].items())
    return (
        f"{table['command']}; {table['runs']} runs, {table['minutes']:.0f} minutes of learning, {table['date']}; "
        f"slices across x, y, z that count as annotated: {annotated}; commits {commits}; "
        f"{', '.join(table['machines'])}"
    )
