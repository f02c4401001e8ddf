"""Tables 1 to 3 and Figure 3: which runs they are made of, and what becomes of their results (section 4)."""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.errors import InputError

from . import printed
from .methods import METHODS, Size
from .run import Run, RunRecord
from .study import Places, Study, evenly

SUBSETS = 3

PLATEAU = (10, 10, 6)
"""Twice as many slices as the most of the paper's Table 2: what more annotation would still bring."""

NETWORKS = ("2d_bn", "3d_no_bn", "3d_bn", "default")

DEFAULT_METHODS: Mapping[str, tuple[str, ...]] = {
    "table1": NETWORKS,
    "table2": ("3d_bn", "default", "interpolation"),
    "table3": NETWORKS,
    "figure3": ("3d_bn",),
}

CAPTIONS = {
    "table1": "Table 1: semi-automated segmentation, cross validation",
    "table2": "Table 2: semi-automated segmentation, effect of the number of annotated slices",
    "table3": "Table 3: fully automated segmentation, cross validation",
    "figure3": "Figure 3: dense segmentation from all sparse annotation",
}

Slices = dict[str, Places]
"""Slices by volume."""


@dataclass(frozen=True)
class Row:
    """What one row of a table, or one cell of Table 2, learns from and is judged by.

    Attributes:
        name: unique in its table, fit for a file name.
        training: annotated slices by volume.
        test: slices by volume.
    """

    name: str
    training: Slices
    test: Slices


def table_1(study: Study) -> list[Row]:
    """Partition all annotated slices into three subsets, uniformly; each is left out once."""
    every = [(name, place) for name, subject in study.subjects.items() for place in subject.slices]
    rows = []
    for subset in range(SUBSETS):
        test = every[subset::SUBSETS]
        training = [slice_ for slice_ in every if slice_ not in test]
        rows.append(Row(f"subset_{subset + 1}", _by_volume(training), _by_volume(test)))
    return rows


def table_2(study: Study) -> list[Row]:
    """Take more and more slices of one volume; judge by its annotated slices that are in none of these sets.

    Raises:
        InputError: a volume is too thin for so many slices.
    """
    rows = []
    for name, subject in study.subjects.items():
        shape, most = subject.volume.shape, printed.TABLE_2_SLICES[-1]
        sets = {counts: _nested(shape, counts, most) for counts in printed.TABLE_2_SLICES}
        sets[PLATEAU] = _nested(shape, PLATEAU, PLATEAU)
        used = {place for places in sets.values() for place in places}
        test = tuple(place for place in subject.slices if place not in used)
        if not test:
            raise InputError(
                f"table2: {name}: {' × '.join(map(str, subject.volume.shape))} voxels leave no slice to be judged by; "
                "leave the volume out, or give a larger one"
            )
        rows += [
            Row(f"{name}-{'_'.join(map(str, counts))}", {name: places}, {name: test}) for counts, places in sets.items()
        ]
    return rows


def _nested(shape: Sequence[int], counts: Sequence[int], most: Sequence[int]) -> Places:
    """Return so many slices across each axis, out of the most there will be: the middle one, those at the ends, …"""
    places = []
    for axis, (length, count, all_of_axis) in enumerate(zip(shape, counts, most, strict=True)):
        indices, middle = evenly(length, all_of_axis), (all_of_axis - 1) // 2
        order = sorted(range(all_of_axis), key=lambda number: (number != middle, -abs(number - middle)))
        places += [AnnotatedSlice(axis, indices[number]) for number in sorted(order[:count])]
    return tuple(places)


def table_3(study: Study) -> list[Row]:
    """Leave each volume out once: learn from all annotated slices of the others."""
    every = {name: subject.slices for name, subject in study.subjects.items()}
    return [
        Row(name, {other: places for other, places in every.items() if other != name}, {name: every[name]})
        for name in every
    ]


def figure_3(study: Study) -> list[Row]:
    """Learn from all annotation; segment the last volume densely, slice by slice across z."""
    *_, (name, subject) = study.subjects.items()
    dense = tuple(AnnotatedSlice(2, index) for index in range(subject.volume.shape[2]))
    return [Row(name, {other: shown.slices for other, shown in study.subjects.items()}, {name: dense})]


ROWS: Mapping[str, Callable[[Study], list[Row]]] = {
    "table1": table_1,
    "table2": table_2,
    "table3": table_3,
    "figure3": figure_3,
}


def _by_volume(slices: Iterable[tuple[str, AnnotatedSlice]]) -> Slices:
    result: Slices = {}
    for name, place in slices:
        result[name] = (*result.get(name, ()), place)
    return result


def runs_of(
    table: str, study: Study, methods: Sequence[str], size: Size, seeds: Iterable[int], steps: int | None
) -> Iterator[Run]:
    """Yield the runs of a table, but for those that a method can't do.

    Args:
        table: one of ``ROWS``.
        study: the volumes.
        methods: names.
        size: of the experiments.
        seeds: of randomness; what isn't random takes the first only.
        steps: of training; None: as many as the size has.
    """
    own = size.table_2_steps if table == "table2" else size.steps
    for number, seed in enumerate(seeds):
        for row in ROWS[table](study):
            for method in methods:
                if not METHODS[method].segments_unseen and not row.test.keys() <= row.training.keys():
                    continue
                if not METHODS[method].is_random and number:
                    continue
                yield Run(table, row.name, method, seed, steps or own, row.training, row.test)


class PaperRow(TypedDict, total=False):
    """The paper's numbers beside a row: each method's IoU under the method's name; in Table 2 also these.

    ``volumes``: its samples one by one. ``labelled_percent``: labelled voxels.
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
    """The file of a table: ``measure``, ``size`` and ``data`` say what was measured, the rest how it came about."""

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
        printed_too: whether the paper's numbers belong beside these.
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
    """Return what a row says of its methods; nothing where no run is finished."""
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
    """Return the mean of each seed over what has the same seeds; empty if not all have."""
    return [statistics.fmean(own) for own in zip(*values, strict=True)] if len(set(map(len, values))) == 1 else []


def _by_class(ious: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    return {name: _mean([iou[name] for iou in ious]) for name in ious[0]}


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of those that there are: a class may be neither in the truth nor predicted."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None
