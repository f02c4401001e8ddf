"""Decide what to hold out of training, so that a score on it is meaningful.

Isolated annotated slices are held out one by one. In a stack of slices, a box or a dense annotation, neighbouring
planes look alike. There, a block of successive planes is held out, and a margin around it is neither trained on nor
scored. Strokes and blobs that form no slice are held out in blocks, too.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import LabelScheme
from lib.core.volumes.working_grid import WorkingGrid

from .paint import Flags, Paint
from .slices import MIN_SLICE_VOXELS, AnnotatedSlice
from .split import MARGIN, Block, SliceSplit, block_flags, neighbouring, on, plane_flags

MIN_SPLIT_SLICES = 6
"""With fewer annotated slices, none is held out as a plane."""

SLICES_PER_HELD_OUT = 3
"""Along an axis, at most one slice in this many is held out, as long as another axis has one to spare."""

HELD_OUT_SHARE = 0.15
"""Fraction of the annotated slices, or of an image's labelled voxels, to hold out."""

MIN_HELD_OUT_SHARE = 0.05
"""Least fraction of the labelled voxels that must be scored."""

MIN_TRAINING_SHARE = 0.5
"""Fraction of an image's labelled voxels that a block and its margins must leave for training."""


class Painted(NamedTuple):
    """An annotation to split.

    Attributes:
        paint: its voxels.
        slices: its annotated slices.
        stacked: axes across which neighbouring planes were painted. If there are any, blocks lie across one of them.
        grid: the image's working grid.
    """

    paint: Paint
    slices: Sequence[AnnotatedSlice]
    stacked: Sequence[int]
    grid: WorkingGrid


def hold_out(
    painted: Mapping[str, Painted], scheme: LabelScheme, seed: int, earlier: SliceSplit | None = None
) -> SliceSplit:
    """Decide what to hold out, so that a score on it is meaningful.

    Nothing is held out unless at least ``MIN_HELD_OUT_SHARE`` of all labelled voxels are scored, some of them are
    foreground, and every scored class is also trained on.

    Args:
        painted: by image id.
        scheme: the label scheme.
        seed: draws the slices that are held out as planes; blocks depend on the annotation alone.
        earlier: the split of the model that training continues, or with which the new model is compared. What it
            trained on stays in training. What it held out is never trained on, as long as it is labelled.
    """
    before = earlier or SliceSplit({}, {})
    solid = {image for image, one in painted.items() if image in before.blocks or _is_solid(one)}
    found = {image: _find_blocks(painted[image], image, scheme, before) for image in solid}
    blocks = {image: held for image, held in found.items() if held}
    flat = {image: one for image, one in painted.items() if image not in blocks}
    known = _with_crowded_slices(flat, before)
    for fraction in (HELD_OUT_SHARE, 2 * HELD_OUT_SHARE):
        planes = split_slices({image: one.slices for image, one in flat.items()}, seed, known, fraction)
        split = SliceSplit(dict(planes.training), dict(planes.validation), blocks)
        for image, held in blocks.items():
            one = painted[image]
            split.training[image] = _training_planes(one, held, before.training.get(image, []))
            split.validation[image] = _with_paint(one.paint, before.validation.get(image, []))
        if _is_meaningful(split, painted, scheme):
            return split
    return SliceSplit({image: _all_planes(one, image in solid) for image, one in painted.items()}, {})


def _is_meaningful(split: SliceSplit, painted: Mapping[str, Painted], scheme: LabelScheme) -> bool:
    """Return whether enough is scored, some of it foreground, and training keeps every scored class."""
    trained, scored, labelled = np.zeros(_values(scheme)), np.zeros(_values(scheme)), 0
    for image, one in painted.items():
        labelled += one.paint.labelled
        for counts, part in zip((trained, scored), split.part(image, one.paint, one.grid), strict=True):
            counts[1:] += part.voxels()[1 : len(counts)]
    enough = scored.sum() >= MIN_HELD_OUT_SHARE * labelled
    return bool(enough and _foreground(scored, scheme) and not np.any(scored[trained == 0]))


def _is_solid(one: Painted) -> bool:
    """Return whether most labelled voxels lie outside isolated slices."""
    isolated = plane_flags(one.paint.volume_shape, set(one.slices) - _crowded(one.slices, one.grid))
    return 2 * one.paint.where(lambda voxels: ~on(isolated, voxels)).labelled > one.paint.labelled


def _crowded(slices: Iterable[AnnotatedSlice], grid: WorkingGrid) -> set[AnnotatedSlice]:
    """Return the slices that have a neighbour, and the slices within the margin of such a slice."""
    flags = plane_flags(grid.native, slices)
    return {
        AnnotatedSlice(axis, int(index))
        for axis in range(3)
        for index in np.flatnonzero(flags[axis] & grid.near(axis, neighbouring(flags[axis], axis, grid), MARGIN))
    }


def _with_crowded_slices(painted: Mapping[str, Painted], before: SliceSplit) -> SliceSplit:
    """Add crowded slices, which can't be scored, to those trained on before, so that none of them is held out."""
    training = dict(before.training)
    for image, one in painted.items():
        crowded = _crowded(one.slices, one.grid) - set(before.validation.get(image, ()))
        training[image] = sorted(crowded.union(before.training.get(image, ())))
    return SliceSplit(training, before.validation)


def _find_blocks(one: Painted, image: str, scheme: LabelScheme, before: SliceSplit) -> list[Block]:
    """Return the blocks to hold out of an image: those held out before and, if these hold too little, another one.

    Of all blocks that leave enough for training, the best one comes closest to ``HELD_OUT_SHARE`` of each class and
    leaves most for training.
    """
    grid, shape = one.grid, one.paint.volume_shape
    labelled = _class_counts(one.paint, scheme)
    trained_before = plane_flags(shape, before.training.get(image, ()))
    near = [grid.near(axis, flags, MARGIN) for axis, flags in enumerate(trained_before)]
    scorable_counts = _class_counts(one.paint.where(lambda voxels: ~on(near, voxels)), scheme)
    totals = labelled[0].sum(axis=0)
    kept = [block for block in before.blocks.get(image, []) if labelled[block.axis][block.first : block.last + 1].any()]

    def scored(axis: int, blocks: Sequence[Block]) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = scorable_counts[axis][block_flags(shape, blocks)[axis]].sum(axis=0)
        return counts

    if kept and scored(kept[0].axis, kept).sum() >= MIN_HELD_OUT_SHARE * totals.sum():
        return kept
    best, best_worth = kept, 0.0
    present = totals > 0
    for axis in [kept[0].axis] if kept else one.stacked or range(3):
        for block in _candidates(scorable_counts[axis].sum(axis=1), axis, int(totals.sum())):
            blocks = [*kept, block]
            held = block_flags(shape, blocks)[axis]
            counts = scored(axis, blocks)
            trained = labelled[axis][~grid.near(axis, held, MARGIN)].sum(axis=0)
            if (
                counts.sum() < MIN_HELD_OUT_SHARE * totals.sum()
                or trained.sum() < MIN_TRAINING_SHARE * totals.sum()
                or _foreground(counts, scheme) < MIN_SLICE_VOXELS
                or np.any(counts[trained == 0])
            ):
                continue
            evenness = np.minimum(counts[present] / totals[present] / HELD_OUT_SHARE, 1).mean()
            worth = float(evenness + trained.sum() / totals.sum())
            if worth > best_worth:
                best, best_worth = blocks, worth
    return sorted(best)


def _candidates(counts: NDArray[np.int64], axis: int, total: int) -> Iterable[Block]:
    """Yield, for each first plane, the shortest blocks with the wanted and with the least share of labelled voxels."""
    before = np.concatenate([[0], np.cumsum(counts)])
    for first in np.flatnonzero(counts).tolist():
        for share in (HELD_OUT_SHARE, MIN_HELD_OUT_SHARE):
            last = int(np.searchsorted(before, before[first] + share * total)) - 1
            if last < len(counts):
                yield Block(axis, first, last)


def _training_planes(one: Painted, blocks: Sequence[Block], before: Iterable[AnnotatedSlice]) -> list[AnnotatedSlice]:
    """List the planes across the blocks' axis to train on, and the labelled planes that were trained on before."""
    axis = blocks[0].axis
    near = one.grid.near(axis, block_flags(one.paint.volume_shape, blocks)[axis], MARGIN)
    planes = [plane for plane in _labelled_planes(one.paint, axis) if not near[plane.index]]
    return sorted({*planes, *_with_paint(one.paint, before)})


def _all_planes(one: Painted, solid: bool) -> list[AnnotatedSlice]:
    """List the annotated slices and, for solid paint outside them, all labelled planes across the longest axis."""
    longest = int(np.argmax(one.paint.volume_shape))
    return sorted({*one.slices, *(_labelled_planes(one.paint, longest) if solid else ())})


def _labelled_planes(paint: Paint, axis: int) -> list[AnnotatedSlice]:
    return [AnnotatedSlice(axis, int(index)) for index in np.flatnonzero(_has_paint(paint)[axis])]


def _with_paint(paint: Paint, planes: Iterable[AnnotatedSlice]) -> list[AnnotatedSlice]:
    """Return the planes that have paint. Planes outside are dropped; an earlier image may have been larger."""
    has_paint = _has_paint(paint)
    inside = [plane for plane in planes if plane.index < paint.volume_shape[plane.axis]]
    return [plane for plane in inside if has_paint[plane.axis][plane.index]]


def _has_paint(paint: Paint) -> Flags:
    """Return flags of the planes that have labelled voxels."""
    flags = plane_flags(paint.volume_shape, ())
    for index, plane in enumerate(paint.planes()):
        across, along_rows, along_columns = (flags[axis] for axis in paint.axes)
        across[index] = len(plane.values) > 0
        along_rows[plane.rows] = along_columns[plane.columns] = True
    return flags


def _values(scheme: LabelScheme) -> int:
    """Return the number of values in an annotation, including that of unlabelled voxels."""
    return scheme.background_value + 1


def _foreground(counts: NDArray[Any], scheme: LabelScheme) -> int:
    return int(counts[1 : scheme.background_value].sum())


def _class_counts(paint: Paint, scheme: LabelScheme) -> list[NDArray[np.int64]]:
    """Count the labelled voxels of each value on the planes across each axis: three arrays (planes, values)."""
    classes = _values(scheme)
    counts = [np.zeros((length, classes), dtype=np.int64) for length in paint.shape]
    for index, plane in enumerate(paint.planes()):
        counts[0][index] = np.bincount(plane.values, minlength=classes)
        for along, places in zip(counts[1:], (plane.rows, plane.columns), strict=True):
            along += np.bincount(classes * places + plane.values, minlength=along.size).reshape(along.shape)
    return [counts[paint.axes.index(axis)] for axis in range(3)]


def split_slices(
    slices: Mapping[str, Sequence[AnnotatedSlice]],
    seed: int,
    earlier: SliceSplit | None = None,
    fraction: float = HELD_OUT_SHARE,
) -> SliceSplit:
    """Hold out some annotated slices for validation, spread over images and axes.

    Each slice has a fixed rank drawn from the seed, the image, the axis and the index. The choice therefore doesn't
    depend on the order of slices, and new slices change little. An axis of an image never loses its last training
    slice. With fewer than ``MIN_SPLIT_SLICES`` slices, or none to spare, nothing is held out.

    Args:
        slices: annotated slices by image id.
        seed: draws the ranks.
        earlier: the split of the model that training continues, or with which the new model is compared. What it
            trained on stays in training, and what it held out stays held out, as long as it is still annotated.
        fraction: fraction of all slices to hold out; at least one slice.
    """
    total = sum(len(set(places)) for places in slices.values())
    trained, kept = (earlier.training, earlier.validation) if earlier else ({}, {})
    size, held = Counter[_Group](), Counter[str | int | _Group]()
    free: dict[_Group, list[AnnotatedSlice]] = {}
    validation: dict[str, list[AnnotatedSlice]] = {}

    def hold_out(group: _Group, place: AnnotatedSlice) -> None:
        validation.setdefault(group[0], []).append(place)
        held.update((group, *group))

    for image, places in slices.items():
        for place in sorted(set(places), key=lambda place: _rank(seed, image, place)):
            group = (image, place.axis)
            size[group] += 1
            if place not in trained.get(image, ()):
                free.setdefault(group, []).append(place)
    if total >= MIN_SPLIT_SLICES:
        for group, places in free.items():
            for place in [place for place in places if place in kept.get(group[0], ())][: size[group] - 1]:
                hold_out(group, place)
                places.remove(place)
        while sum(map(len, validation.values())) < max(1, round(fraction * total)):
            able = [group for group, places in free.items() if places and held[group] < size[group] - 1]
            if not able:
                break
            # Prefer axes with slices to spare, then images and axes with fewest held out, then the lowest rank.
            group = min(
                able,
                key=lambda group: (
                    SLICES_PER_HELD_OUT * (held[group] + 1) > size[group],
                    held[group[0]] + held[group[1]],
                    _rank(seed, group[0], free[group][0]),
                ),
            )
            hold_out(group, free[group].pop(0))

    training = {
        image: sorted(set(places) - set(validation.get(image, ()))) for image, places in slices.items() if places
    }
    return SliceSplit(training, {image: sorted(places) for image, places in validation.items()})


_Group = tuple[str, int]
"""An image's id, and an axis. They identify the annotated slices of that image across that axis."""


def _rank(seed: int, image: str, place: AnnotatedSlice) -> int:
    text = f"{seed}\n{image}\n{place.axis}\n{place.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
