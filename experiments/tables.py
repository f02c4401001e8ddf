"""Which runs Tables 1 to 3 and Figure 3 consist of (section 4)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.errors import InputError

from . import printed
from .methods import METHODS, Size
from .run import Run
from .study import Places, Study, evenly

SUBSETS = 3

PLATEAU = (10, 10, 6)
"""Twice the slices of the paper's largest set in Table 2, to see what more annotation would bring."""

NETWORKS = ("2d_bn", "3d_no_bn", "3d_bn", "default")

DEFAULT_METHODS: Mapping[str, tuple[str, ...]] = {
    "table1": NETWORKS,
    "table2": ("3d_bn", "default", "interpolation"),
    "table3": NETWORKS,
    "figure3": ("3d_bn",),
}

Slices = dict[str, Places]
"""Slices by volume."""


@dataclass(frozen=True)
class Row:
    """What one row of a table, or one cell of Table 2, learns from and is tested on.

    Attributes:
        name: unique in its table, and fit for a file name.
        training: annotated slices by volume.
        test: test slices by volume.
    """

    name: str
    training: Slices
    test: Slices


def table_1(study: Study) -> list[Row]:
    """Divide all annotated slices evenly into three subsets; leave each out once."""
    every = [(name, place) for name, subject in study.subjects.items() for place in subject.slices]
    rows = []
    for subset in range(SUBSETS):
        test = every[subset::SUBSETS]
        training = [slice_ for slice_ in every if slice_ not in test]
        rows.append(Row(f"subset_{subset + 1}", _by_volume(training), _by_volume(test)))
    return rows


def table_2(study: Study) -> list[Row]:
    """Learn from ever larger sets of slices of one volume; test on its annotated slices that are in none of them.

    Raises:
        InputError: a volume has no annotated slice outside the sets.
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
                f"table2: {name}: {' × '.join(map(str, subject.volume.shape))} voxels leave no slice to test "
                "on; leave the volume out, or give a larger one"
            )
        rows += [
            Row(f"{name}-{'_'.join(map(str, counts))}", {name: places}, {name: test}) for counts, places in sets.items()
        ]
    return rows


def _nested(shape: Sequence[int], counts: Sequence[int], most: Sequence[int]) -> Places:
    """Choose ``counts`` of ``most`` evenly spaced slices across each axis: first the middle one, then from the ends."""
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
    """Yield the runs of a table, without those that a method can't do.

    Args:
        table: one of ``ROWS``.
        study: the volumes.
        methods: names of methods.
        size: size of the experiments.
        seeds: seeds of randomness; a method that isn't random takes the first only.
        steps: number of training steps; None: the size's.
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
