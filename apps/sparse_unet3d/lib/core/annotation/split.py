"""What of the annotations is trained on, and what is held out of training to judge by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED
from lib.core.volumes.working_grid import WorkingGrid

from .paint import Flags
from .slices import AnnotatedSlice, keep_slices

MARGIN = 3
"""Working voxels across neighbouring planes within which a judged voxel has none that is learnt from."""


class Block(NamedTuple):
    """Successive planes of an image that are held out: those across ``axis`` from ``first`` to ``last``, included."""

    axis: int
    first: int
    last: int


@dataclass(frozen=True)
class SliceSplit:
    """What is trained on and what is held out, by image id; an id without any may be missing.

    Attributes:
        training: annotated slices that are trained on. In an image with blocks, the planes across their axis that are
            trained on, whether or not they are annotated slices, and what an earlier training learnt from.
        validation: annotated slices that are held out. In an image with blocks they are never learnt from, but only
            blocks are judged.
        blocks: what is held out of images in which neighbouring planes are labelled; all across one axis of an image.
    """

    training: dict[str, list[AnnotatedSlice]]
    validation: dict[str, list[AnnotatedSlice]]
    blocks: dict[str, list[Block]] = field(default_factory=dict)

    @property
    def has_validation(self) -> bool:
        """Whether anything is held out."""
        return any(self.validation.values()) or any(self.blocks.values())

    def to_json(self) -> dict[str, dict[str, list[list[int]]]]:
        """Give the split as ``{"training": {id: [[axis, index], …]}, "validation": {…}, "blocks": {…}}``.

        A block is ``[axis, first, last]``.
        """
        parts = (("training", self.training), ("validation", self.validation), ("blocks", self.blocks))
        return {part: {image: [list(place) for place in held] for image, held in of.items()} for part, of in parts}

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Iterable[Sequence[int]]]]) -> "SliceSplit":
        """Rebuild a split from ``to_json``; earlier versions had no blocks."""
        training, validation = (
            {image: [AnnotatedSlice(*place) for place in slices] for image, slices in content[part].items()}
            for part in ("training", "validation")
        )
        blocks = {image: [Block(*block) for block in held] for image, held in content.get("blocks", {}).items()}
        return cls(training, validation, blocks)

    def part(
        self, image: str, annotation: NDArray[np.uint8], grid: WorkingGrid
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Part an image's annotation into what is trained on and what is judged by; no voxel is in both.

        Voxels near what is trained on are in neither, where neighbouring planes are labelled.

        Args:
            image: its id.
            annotation: (X, Y, Z).
            grid: of the image.

        Returns:
            The training annotation and the validation annotation, both (X, Y, Z).
        """
        training, validation = self.training.get(image, []), self.validation.get(image, [])
        trained = plane_flags(annotation.shape, training)
        blocks = self.blocks.get(image)
        if not blocks:
            learnt, judged = apply_split(annotation, training, validation)
            annotated = plane_flags(annotation.shape, [*training, *validation])
            for axis in range(3):
                crowded = trained[axis] & neighbouring(annotated[axis], axis, grid)
                copy_planes(None, judged, axis, grid.near(axis, crowded, MARGIN))
            return learnt, judged
        learnt, judged = annotation.copy(), np.zeros_like(annotation)
        held = block_flags(annotation.shape, blocks)
        for axis in range(3):
            copy_planes(None, learnt, axis, grid.near(axis, held[axis], MARGIN))
            copy_planes(annotation, judged, axis, held[axis])
        for axis in range(3):
            copy_planes(annotation, learnt, axis, trained[axis])
            copy_planes(None, judged, axis, grid.near(axis, trained[axis], MARGIN))
        for axis, flags in enumerate(plane_flags(annotation.shape, validation)):
            copy_planes(None, learnt, axis, flags)
        return learnt, judged

    def part_known(
        self, image: str, annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice], grid: WorkingGrid
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Part an annotation that may have changed since, as ``part`` does; what was painted since is in neither.

        Args:
            image: its id.
            annotation: (X, Y, Z).
            slices: its annotated slices.
            grid: of the image.
        """
        learnt, judged = self.part(image, annotation, grid)
        training, validation = self.training.get(image, []), self.validation.get(image, [])
        if self.blocks.get(image):
            learnt = keep_slices(learnt, training)
        elif not training and not validation:
            learnt = np.zeros_like(annotation)
        else:
            since = set(slices).difference(training, validation)
            for axis, flags in enumerate(plane_flags(annotation.shape, since)):
                copy_planes(None, learnt, axis, flags)
            for axis, flags in enumerate(plane_flags(annotation.shape, training)):
                copy_planes(annotation, learnt, axis, flags)
        return learnt, judged


def apply_split(
    annotation: NDArray[np.uint8], training: Iterable[AnnotatedSlice], validation: Iterable[AnnotatedSlice]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Part an annotation (X, Y, Z) into what is trained on and what is held out as planes; no voxel is in both.

    Voxels of a held-out slice are held out except where a training slice crosses it. All other paint, also
    such as lies on no annotated slice, is trained on.

    Returns:
        The training annotation and the validation annotation, both (X, Y, Z).
    """
    learnt, judged = annotation.copy(), np.zeros_like(annotation)
    for axis, flags in enumerate(plane_flags(annotation.shape, validation)):
        copy_planes(None, learnt, axis, flags)
        copy_planes(annotation, judged, axis, flags)
    for axis, flags in enumerate(plane_flags(annotation.shape, training)):
        copy_planes(annotation, learnt, axis, flags)
        copy_planes(None, judged, axis, flags)
    return learnt, judged


def plane_flags(shape: Sequence[int], planes: Iterable[AnnotatedSlice]) -> Flags:
    """Flag planes; those that lie outside are left out."""
    flags = [np.zeros(length, dtype=bool) for length in shape]
    for axis, index in planes:
        flags[axis][index : index + 1] = True
    return flags


def block_flags(shape: Sequence[int], blocks: Iterable[Block]) -> Flags:
    """Flag the planes of blocks."""
    flags = [np.zeros(length, dtype=bool) for length in shape]
    for axis, first, last in blocks:
        flags[axis][first : last + 1] = True
    return flags


def neighbouring(flags: NDArray[np.bool_], axis: int, grid: WorkingGrid) -> NDArray[np.bool_]:
    """Flag those of the flagged planes that have another one in the same or the next working plane."""
    first, last = grid.reach(axis)
    planes = np.flatnonzero(flags)
    close = first[planes[1:]] - last[planes[:-1]] <= 1
    found = np.zeros_like(flags)
    found[planes[1:][close]] = found[planes[:-1][close]] = True
    return found


def copy_planes(
    source: NDArray[np.uint8] | None, target: NDArray[np.uint8], axis: int, flags: NDArray[np.bool_]
) -> None:
    """Copy the flagged planes from one annotation to another; None makes them unlabelled."""
    for index in np.flatnonzero(flags):
        place = (*[slice(None)] * axis, index)
        target[place] = UNLABELLED if source is None else source[place]
