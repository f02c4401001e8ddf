"""Sparse annotations: which slices a person painted, and which of them are held out of training.

An annotation is a uint8 map (X, Y, Z): 0 unlabelled, 1 … K foreground classes, K+1 background. An annotated slice is a
plane (axis, index) on which somebody painted; it is detected from the paint, nobody declares it.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .labels import UNLABELLED, LabelScheme

MIN_SLICE_VOXELS = 16
MIN_SLICE_FRACTION = 0.002
"""An annotated slice has at least this many voxels of paint that lies in its plane, and this part of the plane."""

THINNESS = 2
"""Paint lies in a plane where it reaches at least this many times farther along the plane than across."""

LITTLE_PAINT = 0.05
"""An annotated slice with less than this part painted may be a dab that nobody meant as a slice."""

MIN_SPLIT_SLICES = 6
"""With fewer annotated slices than this none is held out."""

MAX_HELD_OUT_SHARE = 3
"""One in so many slices of an axis is held out at most, as long as another axis can give one."""


Unpainted = Literal["unlabelled", "background"]
"""What unpainted voxels in annotated slices count as; all other unpainted voxels are always unlabelled."""


class AnnotatedSlice(NamedTuple):
    """The plane of all voxels whose coordinate along ``axis`` (0, 1, 2) is ``index``."""

    axis: int
    index: int  # type: ignore[assignment]  # hides the tuple method of that name, which nobody calls on a place


def annotated_slices(annotation: NDArray[np.uint8]) -> list[AnnotatedSlice]:
    """Detect the annotated slices, sorted by axis and index.

    A labelled voxel lies *in* the planes across an axis if the unbroken paint along that axis is at most half as long
    as along either other axis, and as the volume. A plane is annotated

    - if enough voxels lie in it (``MIN_SLICE_VOXELS``, ``MIN_SLICE_FRACTION``), at least as many as there are voxels
      of solid paint on it (paint that lies in no plane and reaches beyond this one). Where annotated slices cross,
      paint looks solid, so what lies on slices of other axes doesn't count;
    - or if at least half of it is labelled, again beside the slices of other axes: dense annotation.

    So strokes of a few voxels and blobs painted with a sphere brush make no annotated slice.

    Args:
        annotation: (X, Y, Z), 0 where unlabelled.
    """
    labelled = annotation != UNLABELLED
    if not labelled.any():
        return []
    shape, axes = labelled.shape, range(3)
    runs = [_run_lengths(labelled, axis) for axis in axes]
    lies_in = [
        labelled & (runs[axis] <= np.minimum(np.minimum(*_others(runs, axis)), shape[axis]) // THINNESS)
        for axis in axes
    ]
    solid = labelled & ~(lies_in[0] | lies_in[1] | lies_in[2])

    flat = [_on_planes(lies_in[axis], axis) for axis in axes]
    enough = [flat[axis] >= max(MIN_SLICE_VOXELS, MIN_SLICE_FRACTION * labelled.size / shape[axis]) for axis in axes]
    found = [np.zeros(length, dtype=bool) for length in shape]
    # First the slices that are plain without knowing any other, then those which others cross again and again.
    for _ in range(2):
        reaching_out = [_on_planes(solid & (runs[axis] > 1), axis, beside=found) for axis in axes]
        found = [enough[axis] & (flat[axis] >= reaching_out[axis]) for axis in axes]

    slices = []
    for axis in axes:
        area = np.prod([np.count_nonzero(~flags) for flags in _others(found, axis)])
        dense = (2 * _on_planes(labelled, axis, beside=found) >= area) & (area > 0)
        slices += [AnnotatedSlice(axis, int(index)) for index in np.flatnonzero(found[axis] | dense)]
    return slices


def _run_lengths(labelled: NDArray[np.bool_], axis: int) -> NDArray[np.int32]:
    """Give each labelled voxel the length of the unbroken run of labelled voxels through it along an axis, else 0."""
    runs = np.zeros(labelled.shape, dtype=np.int32)
    along, run = np.moveaxis(labelled, axis, 0), np.moveaxis(runs, axis, 0)
    # Count up to each voxel, then carry the count at the end of each run back to its start.
    run[0] = along[0]
    for i in range(1, len(run)):
        np.multiply(run[i - 1] + 1, along[i], out=run[i])
    for i in reversed(range(len(run) - 1)):
        np.copyto(run[i], run[i + 1], where=along[i] & along[i + 1])
    return runs


def _others(of_axes: Sequence[NDArray[Any]], axis: int) -> tuple[NDArray[Any], NDArray[Any]]:
    first, second = (item for other, item in enumerate(of_axes) if other != axis)
    return first, second


def _on_planes(
    mask: NDArray[np.bool_], axis: int, beside: Sequence[NDArray[np.bool_]] | None = None
) -> NDArray[np.int64]:
    """Count the voxels of a mask on each plane across an axis; if asked, only beside flagged planes of other axes.

    Args:
        mask: (X, Y, Z).
        axis: 0, 1 or 2.
        beside: flags of the planes across each axis.
    """
    planes = np.moveaxis(mask, axis, 0)
    if beside is not None:
        first, second = _others(beside, axis)
        planes = planes[:, ~first][:, :, ~second]
    counts: NDArray[np.int64] = np.count_nonzero(planes, axis=(1, 2))
    return counts


def keep_slices(annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice]) -> NDArray[np.uint8]:
    """Copy an annotation (X, Y, Z), unlabelled everywhere but on the slices: simulates sparse annotation."""
    return np.where(_on_any(annotation.shape, slices), annotation, np.uint8(UNLABELLED))


def fill_unpainted(
    annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice], scheme: LabelScheme
) -> NDArray[np.uint8]:
    """Copy an annotation (X, Y, Z), with the unlabelled voxels on the slices labelled as background.

    The slices are those detected in what was painted: in a filled annotation more would be found.
    """
    unpainted = _on_any(annotation.shape, slices) & (annotation == UNLABELLED)
    return np.where(unpainted, np.uint8(scheme.background_value), annotation)


def _on_any(shape: tuple[int, ...], slices: Iterable[AnnotatedSlice]) -> NDArray[np.bool_]:
    """Mark the voxels that lie on one of the slices."""
    mask = np.zeros(shape, dtype=bool)
    for axis, index in slices:
        np.moveaxis(mask, axis, 0)[index] = True
    return mask


def statistics(annotation: NDArray[np.uint8], scheme: LabelScheme) -> dict[str, Any]:
    """Describe an annotation (X, Y, Z) for JSON.

    Returns:
        ``labelled_voxels``; ``labelled_percent`` of all voxels; ``voxels`` by class name; ``annotated_slices``: for
        each of the axes 0, 1, 2 the list of indices; ``mostly_unpainted``: likewise, those of them of which less than
        ``LITTLE_PAINT`` is painted.
    """
    counts = np.bincount(annotation.ravel(), minlength=len(scheme.classes) + 1)
    labelled = annotation.size - int(counts[UNLABELLED])
    slices = annotated_slices(annotation)
    little = [place for place in slices if np.mean(np.take(annotation, place[1], axis=place[0]) != 0) < LITTLE_PAINT]
    return {
        "labelled_voxels": labelled,
        "labelled_percent": 100 * labelled / annotation.size,
        "voxels": {name: int(counts[value]) for value, name in enumerate(scheme.classes, start=1)},
        "annotated_slices": _by_axis(slices),
        "mostly_unpainted": _by_axis(little),
    }


def _by_axis(slices: Sequence[AnnotatedSlice]) -> list[list[int]]:
    return [[index for across, index in slices if across == axis] for axis in range(3)]


def taught_classes(statistics: Mapping[str, Any], scheme: LabelScheme, unpainted: Unpainted) -> set[str]:
    """Return the names of the classes that there is something to learn of, going by an annotation's ``statistics``."""
    taught = {name for name in scheme.classes if statistics["voxels"].get(name)}
    # A slice without any unpainted voxel teaches no background; the statistics don't tell, training looks again.
    if unpainted == "background" and any(statistics["annotated_slices"]):
        taught.add(scheme.background)
    return taught


@dataclass(frozen=True)
class SliceSplit:
    """Annotated slices that are trained on and those held out, by image id; an id without any may be missing."""

    training: dict[str, list[AnnotatedSlice]]
    validation: dict[str, list[AnnotatedSlice]]

    @property
    def has_validation(self) -> bool:
        """Whether any slice is held out."""
        return any(self.validation.values())

    def to_json(self) -> dict[str, dict[str, list[list[int]]]]:
        """Give the split as ``{"training": {id: [[axis, index], …]}, "validation": {…}}``."""
        return {
            part: {image: [list(place) for place in slices] for image, slices in by_image.items()}
            for part, by_image in (("training", self.training), ("validation", self.validation))
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Iterable[Sequence[int]]]]) -> "SliceSplit":
        """Rebuild a split from ``to_json``."""
        training, validation = (
            {image: [AnnotatedSlice(*place) for place in slices] for image, slices in content[part].items()}
            for part in ("training", "validation")
        )
        return cls(training, validation)


def split_slices(
    slices: Mapping[str, Sequence[AnnotatedSlice]],
    seed: int,
    earlier: SliceSplit | None = None,
    fraction: float = 0.15,
) -> SliceSplit:
    """Hold out some annotated slices for validation, spread over images and axes.

    Each slice has a rank of its own, drawn from the seed, the image, the axis and the index, so that the choice does
    not depend on the order of slices, and new ones change little of it. An axis of an image never loses its last
    training slice. With fewer than ``MIN_SPLIT_SLICES`` slices, or none to spare, nothing is held out.

    Args:
        slices: annotated slices by image id.
        seed: draws the ranks.
        earlier: the split of the model that training goes on from, or whose score the new one is compared with. What
            it trained on stays in training and what it held out stays held out, as long as it is still annotated.
        fraction: part of all slices to hold out; at least one.
    """
    total = sum(len(set(places)) for places in slices.values())
    trained, kept = (earlier.training, earlier.validation) if earlier else ({}, {})
    size, held = Counter[_Line](), Counter[str | int | _Line]()
    free: dict[_Line, list[AnnotatedSlice]] = {}
    validation: dict[str, list[AnnotatedSlice]] = {}

    def hold_out(line: _Line, place: AnnotatedSlice) -> None:
        validation.setdefault(line[0], []).append(place)
        held.update((line, *line))

    for image, places in slices.items():
        for place in sorted(set(places), key=lambda place: _rank(seed, image, place)):
            line = (image, place.axis)
            size[line] += 1
            if place not in trained.get(image, ()):
                free.setdefault(line, []).append(place)
    if total >= MIN_SPLIT_SLICES:
        for line, places in free.items():
            for place in [place for place in places if place in kept.get(line[0], ())][: size[line] - 1]:
                hold_out(line, place)
                places.remove(place)
        while sum(map(len, validation.values())) < max(1, round(fraction * total)):
            able = [line for line, places in free.items() if places and held[line] < size[line] - 1]
            if not able:
                break
            # Where enough is left, then where least was taken from the image and the axis, then by rank.
            line = min(
                able,
                key=lambda line: (
                    MAX_HELD_OUT_SHARE * (held[line] + 1) > size[line],
                    held[line[0]] + held[line[1]],
                    _rank(seed, line[0], free[line][0]),
                ),
            )
            hold_out(line, free[line].pop(0))

    training = {
        image: sorted(set(places) - set(validation.get(image, ()))) for image, places in slices.items() if places
    }
    return SliceSplit(training, {image: sorted(places) for image, places in validation.items()})


_Line = tuple[str, int]
"""The annotated slices across one axis of one image: its id and the axis."""


def _rank(seed: int, image: str, place: AnnotatedSlice) -> int:
    text = f"{seed}\n{image}\n{place.axis}\n{place.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def apply_split(
    annotation: NDArray[np.uint8], training: Iterable[AnnotatedSlice], validation: Iterable[AnnotatedSlice]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Part an annotation (X, Y, Z) into what is trained on and what is held out; no voxel is in both.

    Voxels of a held-out slice are held out except where a training slice crosses it. All other paint, also
    such as lies on no annotated slice, is trained on.

    Returns:
        The training annotation and the validation annotation, both (X, Y, Z).
    """
    held_out = _on_any(annotation.shape, validation) & ~_on_any(annotation.shape, training)
    unlabelled = np.uint8(UNLABELLED)
    return np.where(held_out, unlabelled, annotation), np.where(held_out, annotation, unlabelled)
