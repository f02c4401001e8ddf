"""The split of annotations into what is trained on and what is held out to be scored."""

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
"""Distance in working planes that separates scored voxels from training voxels, where planes are neighbours."""


class Block(NamedTuple):
    """Successive planes that are held out: the planes across ``axis`` from ``first`` to ``last``, both included."""

    axis: int
    first: int
    last: int


@dataclass(frozen=True)
class SliceSplit:
    """What is trained on and what is held out, by image id. Ids without any may be missing.

    Attributes:
        training: annotated slices that are trained on. In an image with blocks, these are all planes across the blocks'
            axis that are trained on, annotated slices or not, and the slices that an earlier training used.
        validation: annotated slices that are held out. In an image with blocks, only blocks are scored.
        blocks: what is held out of images in which neighbouring planes are labelled. All blocks of an image lie across
            the same axis.
    """

    training: dict[str, list[AnnotatedSlice]]
    validation: dict[str, list[AnnotatedSlice]]
    blocks: dict[str, list[Block]] = field(default_factory=dict)

    @property
    def has_validation(self) -> bool:
        """Whether anything is held out."""
        return any(self.validation.values()) or any(self.blocks.values())

    def to_json(self) -> dict[str, dict[str, list[list[int]]]]:
        """Return ``{"training": {id: [[axis, index], …]}, "validation": {…}, "blocks": {…}}``.

        A block is ``[axis, first, last]``.
        """
        parts = (("training", self.training), ("validation", self.validation), ("blocks", self.blocks))
        return {part: {image: [list(place) for place in held] for image, held in of.items()} for part, of in parts}

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Iterable[Sequence[int]]]]) -> "SliceSplit":
        """Rebuild a split from ``to_json``. Earlier versions of this software wrote no blocks."""
        training, validation = (
            {image: [AnnotatedSlice(*place) for place in slices] for image, slices in content[part].items()}
            for part in ("training", "validation")
        )
        blocks = {image: [Block(*block) for block in held] for image, held in content.get("blocks", {}).items()}
        return cls(training, validation, blocks)

    def part(
        self, image: str, annotation: NDArray[np.uint8], grid: WorkingGrid
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Split an image's annotation into training voxels and scored voxels; no voxel is in both.

        Where neighbouring planes are labelled, voxels within the margin of training voxels are in neither.

        Args:
            image: its id.
            annotation: (X, Y, Z).
            grid: the image's working grid.

        Returns:
            The training annotation and the validation annotation, both (X, Y, Z).
        """
        training, validation = self.training.get(image, []), self.validation.get(image, [])
        training_flags = plane_flags(annotation.shape, training)
        blocks = self.blocks.get(image)
        if not blocks:
            trained, scored = apply_split(annotation, training, validation)
            annotated = plane_flags(annotation.shape, [*training, *validation])
            for axis in range(3):
                crowded = training_flags[axis] & neighbouring(annotated[axis], axis, grid)
                copy_planes(None, scored, axis, grid.near(axis, crowded, MARGIN))
            return trained, scored
        trained, scored = annotation.copy(), np.zeros_like(annotation)
        held = block_flags(annotation.shape, blocks)
        for axis in range(3):
            copy_planes(None, trained, axis, grid.near(axis, held[axis], MARGIN))
            copy_planes(annotation, scored, axis, held[axis])
        for axis in range(3):
            copy_planes(annotation, trained, axis, training_flags[axis])
            copy_planes(None, scored, axis, grid.near(axis, training_flags[axis], MARGIN))
        for axis, flags in enumerate(plane_flags(annotation.shape, validation)):
            copy_planes(None, trained, axis, flags)
        return trained, scored

    def part_known(
        self, image: str, annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice], grid: WorkingGrid
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Split an annotation that may have changed since training, as ``part`` does; newer paint is in neither.

        Args:
            image: its id.
            annotation: (X, Y, Z).
            slices: its annotated slices.
            grid: the image's working grid.
        """
        trained, scored = self.part(image, annotation, grid)
        training, validation = self.training.get(image, []), self.validation.get(image, [])
        if self.blocks.get(image):
            trained = keep_slices(trained, training)
        elif not training and not validation:
            trained = np.zeros_like(annotation)
        else:
            since = set(slices).difference(training, validation)
            for axis, flags in enumerate(plane_flags(annotation.shape, since)):
                copy_planes(None, trained, axis, flags)
            for axis, flags in enumerate(plane_flags(annotation.shape, training)):
                copy_planes(annotation, trained, axis, flags)
        return trained, scored


def apply_split(
    annotation: NDArray[np.uint8], training: Iterable[AnnotatedSlice], validation: Iterable[AnnotatedSlice]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split an annotation (X, Y, Z) into training voxels and voxels held out as planes; no voxel is in both.

    Voxels of a held-out slice are held out, except where a training slice crosses it. All other paint is trained on,
    even if it lies on no annotated slice.

    Returns:
        The training annotation and the validation annotation, both (X, Y, Z).
    """
    trained, scored = annotation.copy(), np.zeros_like(annotation)
    for axis, flags in enumerate(plane_flags(annotation.shape, validation)):
        copy_planes(None, trained, axis, flags)
        copy_planes(annotation, scored, axis, flags)
    for axis, flags in enumerate(plane_flags(annotation.shape, training)):
        copy_planes(annotation, trained, axis, flags)
        copy_planes(None, scored, axis, flags)
    return trained, scored


def plane_flags(shape: Sequence[int], planes: Iterable[AnnotatedSlice]) -> Flags:
    """Return flags of planes; planes outside the shape are dropped."""
    flags = [np.zeros(length, dtype=bool) for length in shape]
    for axis, index in planes:
        flags[axis][index : index + 1] = True
    return flags


def block_flags(shape: Sequence[int], blocks: Iterable[Block]) -> Flags:
    """Return flags of the planes of blocks."""
    flags = [np.zeros(length, dtype=bool) for length in shape]
    for axis, first, last in blocks:
        flags[axis][first : last + 1] = True
    return flags


def neighbouring(flags: NDArray[np.bool_], axis: int, grid: WorkingGrid) -> NDArray[np.bool_]:
    """Return flags of the flagged planes that have another flagged plane in the same or the next working plane."""
    first, last = grid.reach(axis)
    planes = np.flatnonzero(flags)
    close = first[planes[1:]] - last[planes[:-1]] <= 1
    found = np.zeros_like(flags)
    found[planes[1:][close]] = found[planes[:-1][close]] = True
    return found


def copy_planes(
    source: NDArray[np.uint8] | None, target: NDArray[np.uint8], axis: int, flags: NDArray[np.bool_]
) -> None:
    """Copy the flagged planes from one annotation to another; if the source is None, make them unlabelled."""
    for index in np.flatnonzero(flags):
        place = (*[slice(None)] * axis, index)
        target[place] = UNLABELLED if source is None else source[place]
