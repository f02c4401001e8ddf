"""Tables assembled from the records of finished runs, with the paper's numbers beside them."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from . import printed
from .methods import METHODS
from .records import RunRecord
from .study import Study
from .tables import PLATEAU, ROWS

CAPTIONS = {
    "table1": "Table 1: semi-automated segmentation, cross validation",
    "table2": "Table 2: semi-automated segmentation, effect of the number of annotated slices",
    "table3": "Table 3: fully automated segmentation, cross validation",
    "figure3": "Figure 3: dense segmentation from all sparse annotation",
}


class PaperRow(TypedDict, total=False):
    """The paper's numbers for a row: each method's IoU under the method's name. Table 2 has two more.

    ``volumes``: IoU of each sample. ``labelled_percent``: labelled voxels.
    """

    volumes: list[float]
    labelled_percent: float


class TableRow(TypedDict, total=False):
    """A row of a table. Each finished method's mean foreground IoU over the seeds stands under the method's name.

    ``test``: name of the row; in Table 2 ``slices`` across x, y, z instead. ``classes`` and ``seeds``: IoU by class and
    mean IoU by seed, by method. ``labelled_percent``: annotated voxels. ``volumes``, in Table 2: the IoU of each
    volume, by method. ``paper``: the paper's numbers.
    """

    test: str
    slices: list[int]
    classes: dict[str, dict[str, float | None]]
    seeds: dict[str, list[float]]
    labelled_percent: float
    volumes: dict[str, dict[str, float]]
    paper: PaperRow


class Averages(TypedDict, total=False):
    """Means over the rows, and the paper's. Each method that is finished in all rows stands under its name."""

    paper: PaperRow


class AssembledTable(TypedDict):
    """A table of the finished runs.

    ``average_seeds``: the averages seed by seed, by method. ``annotated_slices``: their number across x, y, z, by
    volume. ``runs``: number of finished runs.
    """

    caption: str
    rows: list[TableRow]
    average: Averages
    average_seeds: dict[str, list[float]]
    annotated_slices: dict[str, list[int]]
    runs: int


class TableResult(AssembledTable):
    """The file of a table: ``measure``, ``size`` and ``data`` say what was measured, the other keys how."""

    measure: str
    size: str
    data: str
    seeds: list[int]
    command: str
    date: str
    commits: dict[str, list[str]]
    machines: list[str]
    minutes: float


def read_table(path: Path) -> TableResult:
    """Read the file of a table."""
    table: TableResult = json.loads(path.read_text(encoding="utf-8"))
    return table


def mean_of(row: Mapping[str, object], method: str) -> float | None:
    """Return a method's mean IoU in a row or in averages; None where it isn't finished."""
    value = row.get(method)
    return value if isinstance(value, float) else None


def methods_in(table: AssembledTable) -> list[str]:
    """Return the methods that are finished in some row."""
    return [method for method in METHODS if any(method in row for row in table["rows"])]


def assemble(table: str, study: Study, records: Sequence[RunRecord], printed_too: bool) -> AssembledTable:
    """Make a table of the finished runs.

    Args:
        table: one of ``ROWS``.
        study: the volumes.
        records: of its runs.
        printed_too: whether to add the paper's numbers.
    """
    rows = _rows_of_table_2(study, records) if table == "table2" else _rows(table, study, records)
    if printed_too:
        for row, beside in zip(rows, _printed(table), strict=False):
            row["paper"] = beside
    means: dict[str, float] = {}
    average_seeds: dict[str, list[float]] = {}
    for method in METHODS:
        in_rows = [value for row in rows if (value := mean_of(row, method)) is not None]
        # The rows of Table 2 form a curve, whose mean says nothing.
        if table != "table2" and len(in_rows) == len(rows):
            means[method] = statistics.fmean(in_rows)
            average_seeds[method] = _seed_by_seed([row["seeds"][method] for row in rows])
    average = cast(Averages, means)
    if printed_too and table in printed.AVERAGES:
        average["paper"] = cast(PaperRow, dict(printed.AVERAGES[table]))
    annotated = {
        name: [sum(place.axis == axis for place in subject.slices) for axis in range(3)]
        for name, subject in study.subjects.items()
    }
    return {
        "caption": CAPTIONS[table],
        "rows": rows,
        "average": average,
        "average_seeds": average_seeds,
        "annotated_slices": annotated,
        "runs": len(records),
    }


def _printed(table: str) -> list[PaperRow]:
    if table == "table2":
        return [
            cast(
                PaperRow,
                {"3d_bn": statistics.fmean(values), "volumes": list(values), "labelled_percent": labelled},
            )
            for values, labelled in zip(printed.TABLE_2, printed.TABLE_2_LABELLED, strict=True)
        ]
    return [cast(PaperRow, dict(row)) for row in {"table1": printed.TABLE_1, "table3": printed.TABLE_3}.get(table, ())]


def _rows(table: str, study: Study, records: Sequence[RunRecord]) -> list[TableRow]:
    return [{"test": row.name, **_cells([r for r in records if r["row"] == row.name])} for row in ROWS[table](study)]


def _rows_of_table_2(study: Study, records: Sequence[RunRecord]) -> list[TableRow]:
    """Return a row for each number of slices: means over the volumes, and the volumes one by one."""
    rows = []
    for counts in (*printed.TABLE_2_SLICES, PLATEAU):
        names = {name: f"{name}-{'_'.join(map(str, counts))}" for name in study.subjects}
        by_volume = {name: _cells([r for r in records if r["row"] == row]) for name, row in names.items()}
        row: TableRow = {"slices": list(counts), "classes": {}, "seeds": {}}
        means: dict[str, float] = {}
        volumes: dict[str, dict[str, float]] = {}
        for method in METHODS:
            own = {name: mean for name, cells in by_volume.items() if (mean := mean_of(cells, method)) is not None}
            if own:
                volumes[method] = own
            if len(own) == len(by_volume):
                means[method] = statistics.fmean(own.values())
                row["classes"][method] = _by_class([cells["classes"][method] for cells in by_volume.values()])
                row["seeds"][method] = _seed_by_seed([cells["seeds"][method] for cells in by_volume.values()])
        labelled = [cells["labelled_percent"] for cells in by_volume.values() if "labelled_percent" in cells]
        shares = {"labelled_percent": statistics.fmean(labelled)} if labelled else {}
        rows.append(cast(TableRow, {**row, **means, **shares, "volumes": volumes}))
    return rows


def _cells(records: Sequence[RunRecord]) -> TableRow:
    """Return the numbers of each method in a row; nothing if no run is finished."""
    means: dict[str, float] = {}
    classes: dict[str, dict[str, float | None]] = {}
    seeds: dict[str, list[float]] = {}
    for method in METHODS:
        own = sorted((r for r in records if r["method"] == method), key=lambda r: r["seed"])
        if not own:
            continue
        # ``check_runs`` refuses runs without foreground in the truth, so there is a mean.
        seeds[method] = [mean for r in own if (mean := r["mean_iou"]) is not None]
        means[method] = statistics.fmean(seeds[method])
        classes[method] = _by_class([record["iou"] for record in own])
    if not means:
        return {}
    cells = {**means, "classes": classes, "seeds": seeds, "labelled_percent": records[0]["labelled_percent"]}
    return cast(TableRow, cells)


def _seed_by_seed(values: Sequence[Sequence[float]]) -> list[float]:
    """Return, for each seed, the mean over rows or volumes; empty if these differ in their number of seeds."""
    return [statistics.fmean(own) for own in zip(*values, strict=True)] if len(set(map(len, values))) == 1 else []


def _by_class(ious: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    return {name: _mean([iou[name] for iou in ious]) for name in ious[0]}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean without None, which stands for a class that is neither in the truth nor predicted."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None
