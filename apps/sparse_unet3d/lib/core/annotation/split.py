"""The split of annotations into what is trained on and what is held out to be scored."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.volumes.working_grid import WorkingGrid

from .paint import Flags, Paint
from .slices import AnnotatedSlice

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

    def part(self, image: str, paint: Paint, grid: WorkingGrid) -> tuple[Paint, Paint]:
        """Split an image's annotation into training voxels and scored voxels; no voxel is in both.

        Where neighbouring planes are labelled, voxels within the margin of training voxels are in neither.

        Args:
            image: its id.
            paint: its annotation.
            grid: the image's working grid.

        Returns:
            The training annotation and the validation annotation.
        """
        training, validation = self.training.get(image, []), self.validation.get(image, [])
        trained, held = (plane_flags(paint.volume_shape, planes) for planes in (training, validation))
        blocks = self.blocks.get(image)
        if not blocks:
            annotated = plane_flags(paint.volume_shape, [*training, *validation])
            crowded = [trained[axis] & neighbouring(annotated[axis], axis, grid) for axis in range(3)]
            near = [grid.near(axis, crowded[axis], MARGIN) for axis in range(3)]
            learnt, scored = apply_split(paint, training, validation)
            return learnt, scored.where(lambda voxels: ~on(near, voxels))
        inside = block_flags(paint.volume_shape, blocks)
        around = [grid.near(axis, inside[axis], MARGIN) for axis in range(3)]
        near = [grid.near(axis, trained[axis], MARGIN) for axis in range(3)]
        return (
            paint.where(lambda voxels: (on(trained, voxels) | ~on(around, voxels)) & ~on(held, voxels)),
            paint.where(lambda voxels: on(inside, voxels) & ~on(near, voxels)),
        )

    def part_known(
        self, image: str, paint: Paint, slices: Iterable[AnnotatedSlice], grid: WorkingGrid
    ) -> tuple[Paint, Paint]:
        """Split an annotation that may have changed since training, as ``part`` does; newer paint is in neither.

        Args:
            image: its id.
            paint: its annotation.
            slices: its annotated slices.
            grid: the image's working grid.
        """
        learnt, scored = self.part(image, paint, grid)
        training, validation = self.training.get(image, []), self.validation.get(image, [])
        trained = plane_flags(paint.volume_shape, training)
        if self.blocks.get(image) or (not training and not validation):
            return learnt.where(lambda voxels: on(trained, voxels)), scored
        since = plane_flags(paint.volume_shape, set(slices).difference(training, validation))
        return learnt.where(lambda voxels: on(trained, voxels) | ~on(since, voxels)), scored


def apply_split(
    paint: Paint, training: Iterable[AnnotatedSlice], validation: Iterable[AnnotatedSlice]
) -> tuple[Paint, Paint]:
    """Split an annotation into training voxels and voxels held out as planes; no voxel is in both.

    Voxels of a held-out slice are held out, except where a training slice crosses it. All other paint is trained on,
    even if it lies on no annotated slice.

    Returns:
        The training annotation and the validation annotation.
    """
    trained, held = (plane_flags(paint.volume_shape, planes) for planes in (training, validation))
    return (
        paint.where(lambda voxels: on(trained, voxels) | ~on(held, voxels)),
        paint.where(lambda voxels: on(held, voxels) & ~on(trained, voxels)),
    )


def on(flags: Flags, voxels: Sequence[Any]) -> NDArray[np.bool_]:
    """Tell which voxels lie on a flagged plane across any axis.

    Args:
        flags: for each axis.
        voxels: their indices along each axis, see ``Paint.where``.
    """
    x, y, z = (of_axis[along] for of_axis, along in zip(flags, voxels, strict=True))
    return np.asarray(x | y | z)


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
