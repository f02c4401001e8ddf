"""Which annotated slices are trained on, and which of them are held out of training."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .annotations import AnnotatedSlice
from .labels import UNLABELLED

MIN_SPLIT_SLICES = 6
"""With fewer annotated slices than this none is held out."""

MAX_HELD_OUT_SHARE = 3
"""One in so many slices of an axis is held out at most, as long as another axis can give one."""


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


def _on_any(shape: tuple[int, ...], slices: Iterable[AnnotatedSlice]) -> NDArray[np.bool_]:
    """Mark the voxels that lie on one of the slices."""
    mask = np.zeros(shape, dtype=bool)
    for axis, index in slices:
        np.moveaxis(mask, axis, 0)[index] = True
    return mask
