"""Measures the classes and the objects of a segmentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes.source import Box
from lib.core.volumes.volume import LPS_TO_RAS, Affine, spacing_of

from .objects import Neighbours, Objects, find
from .skeleton import skeleton_length
from .surfaces import surface_of

MOST_OBJECTS = 10_000
"""A class with more objects is measured as a whole only: nobody reads as many rows, and they take minutes."""


@dataclass(frozen=True)
class MeasuringOptions:
    """What counts as an object, and what is measured.

    Attributes:
        neighbours: which voxels of a class are connected: 6, 18 or 26 around each.
        least_voxels: smaller objects don't count.
        splits: whether touching, round objects are split by a watershed.
        tubes: names of the classes whose length is measured.
    """

    neighbours: Neighbours = 26
    least_voxels: int = 1
    splits: bool = False
    tubes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measures:
    """What is measured of a set of voxels. Lengths are in millimetres, unless the image's file has another unit.

    Attributes:
        voxels: number of voxels.
        volume: voxels times the volume of one, in mm³.
        surface: area in mm² of the surface that ``surface_of`` returns.
        centroid: mean place of the voxels in LPS mm.
        extent: length in mm along the image's axes X, Y, Z, from the first voxel's outer face to the last one's.
        intensities: mean of each channel, as stored in the file; empty without an image.
        length: in mm along the skeleton; None if the class isn't one of tubes.
        touches_border: whether a voxel lies on the border of the image, so that the rest may be outside.
    """

    voxels: int
    volume: float
    surface: float
    centroid: tuple[float, float, float]
    extent: tuple[float, float, float]
    intensities: tuple[float, ...]
    length: float | None
    touches_border: bool


@dataclass(frozen=True)
class ClassMeasures:
    """What is measured of a class.

    Attributes:
        objects: how many there are.
        left_out: how many components of fewer than ``least_voxels`` voxels there are beside them.
        left_out_voxels: voxels in these.
        whole: measures of all objects together; None if there are none.
        each: measures of each object, the largest first; empty if there are more than ``MOST_OBJECTS``.
        mesh: the surface of all objects together; None if there are none.
    """

    objects: int
    left_out: int
    left_out_voxels: int
    whole: Measures | None
    each: tuple[Measures, ...]
    mesh: trimesh.Trimesh | None


def measure(
    labels: NDArray[np.integer[Any]],
    affine: Affine,
    classes: Sequence[str],
    options: MeasuringOptions,
    channels: NDArray[Any] | None = None,
) -> dict[str, ClassMeasures]:
    """Measure each class of a segmentation, and each of its objects.

    Objects are connected components, or parts of these (``MeasuringOptions.splits``), not instances that a network has
    learnt to tell apart.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K.
        affine: (4, 4) voxel to RAS mm.
        classes: the K names.
        options: what counts as an object, and what is measured.
        channels: (C, X, Y, Z) the image, for mean intensities.

    Returns:
        The measures of each class by its name, in the order of the classes.

    Raises:
        InputError: a value is no class, or a class of tubes has another name.

    Examples:
        Measure the cell of the example of ``read_volume``:

        >>> from lib.core.measurement.measures import MeasuringOptions, measure
        >>> from lib.core.volumes.reading import read_label_map
        >>> truth = read_label_map("truth.nii.gz")
        >>> cell = measure(truth.array, truth.affine, ["cell"], MeasuringOptions())["cell"]
        >>> cell.objects, cell.whole.volume, [round(side, 1) for side in cell.whole.extent]
        (1, 887.75, [11.5, 11.5, 11.0])
    """
    values = np.unique(labels)
    strange = [int(value) for value in values if not 0 <= value <= len(classes)]
    if strange:
        raise InputError(
            f"measure: there are voxels of value {strange[0]}, but {len(classes)} classes ({', '.join(classes)}); name "
            "all classes in the order of their values"
        )
    unknown = [name for name in options.tubes if name not in classes]
    if unknown:
        raise InputError(f"--tubes: there is no class {unknown[0]!r}; the classes are {', '.join(classes)}")
    spacing = spacing_of(affine)
    found = find(labels, options.neighbours, options.least_voxels, spacing if options.splits else None)
    measured = _Measured(found, affine, channels)
    results = {}
    for value, name in enumerate(classes, start=1):
        numbers = [number for number, of in enumerate(found.classes, start=1) if of == value]
        left_out, left_out_voxels = found.left_out.get(value, (0, 0))
        is_tube = name in options.tubes
        whole, mesh = measured.together(numbers, is_tube) if numbers else (None, None)
        each = tuple(measured.each(numbers, is_tube)) if len(numbers) <= MOST_OBJECTS else ()
        results[name] = ClassMeasures(len(numbers), left_out, left_out_voxels, whole, each, mesh)
    return results


class _Measured:
    """What is counted over all objects at once, and measured of each."""

    def __init__(self, found: Objects, affine: Affine, channels: NDArray[Any] | None) -> None:
        self.found, self.affine = found, affine
        self.to_lps = LPS_TO_RAS @ affine
        self.boxes = found.boxes()
        count = len(found.classes) + 1
        self.voxels = np.array([0, *found.voxels])
        # Sums over planes need no array of the volume's size.
        self.places = np.zeros((count, 3))
        self.sums = np.zeros((count, 0 if channels is None else len(channels)))
        _, y, z = np.indices((1, *found.numbers.shape[1:]))
        for x, plane in enumerate(found.numbers):
            numbers = plane.ravel()
            weights = [np.full(numbers.shape, x), y.ravel(), z.ravel()]
            self.places += _sums(numbers, weights, count)
            if channels is not None:
                self.sums += _sums(numbers, [channel[x].ravel() for channel in channels], count)
        borders = [found.numbers.take(at, axis) for axis in range(3) for at in (0, -1)]
        self.at_border = np.zeros(count, bool)
        for border in borders:
            self.at_border[np.unique(border)] = True

    def each(self, numbers: Sequence[int], is_tube: bool) -> Iterator[Measures]:
        """Yield the measures of each object."""
        for number in numbers:
            box = self.boxes[number - 1]
            mask = self.found.numbers[box] == number
            length = skeleton_length(mask, self.affine) if is_tube else None
            yield self._measures([number], box, surface_of(mask, self._affine_of(box)).area, length)

    def together(self, numbers: Sequence[int], is_tube: bool) -> tuple[Measures, trimesh.Trimesh]:
        """Return the measures of objects together, and their surface."""
        boxes = [self.boxes[number - 1] for number in numbers]
        x, y, z = (
            slice(min(side.start for side in axis), max(side.stop for side in axis))
            for axis in zip(*boxes, strict=True)
        )
        box = (x, y, z)
        mask = np.isin(self.found.numbers[box], numbers)
        mesh = surface_of(mask, self._affine_of(box))
        length = skeleton_length(mask, self.affine) if is_tube else None
        return self._measures(numbers, box, mesh.area, length), mesh

    def _measures(self, numbers: Sequence[int], box: Box, surface: float, length: float | None) -> Measures:
        voxels = int(self.voxels[numbers].sum())
        centre = self.to_lps @ [*self.places[numbers].sum(axis=0) / voxels, 1]
        extent = [(side.stop - side.start) * size for side, size in zip(box, spacing_of(self.affine), strict=True)]
        return Measures(
            voxels=voxels,
            volume=voxels * float(abs(np.linalg.det(self.affine[:3, :3]))),
            surface=float(surface),
            centroid=(float(centre[0]), float(centre[1]), float(centre[2])),
            extent=(extent[0], extent[1], extent[2]),
            intensities=tuple(map(float, self.sums[numbers].sum(axis=0) / voxels)),
            length=length,
            touches_border=bool(self.at_border[numbers].any()),
        )

    def _affine_of(self, box: Box) -> Affine:
        """Return the affine of a box of the volume."""
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ [*(side.start for side in box), 1])[:3]
        return affine


def _sums(numbers: NDArray[np.uint32], weights: Sequence[NDArray[Any]], count: int) -> NDArray[np.float64]:
    """Return the sum of each weight over the voxels of each object, (count, weights)."""
    return np.stack([np.bincount(numbers, weight, count) for weight in weights], axis=1)
