"""The grid that the network works on: the volume's own, or a coarser one (as in the paper), or a finer one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .source import Box


@dataclass(frozen=True)
class WorkingGrid:
    """A volume's own grid and the working grid over the same extent.

    Attributes:
        native: number of the volume's voxels along each axis.
        working: number of working voxels along each axis.
    """

    native: tuple[int, ...]
    working: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], voxel_size: Sequence[float], spacing: Sequence[float] | None) -> "WorkingGrid":
        """Choose the working grid for a volume and a wanted spacing.

        Args:
            shape: number of the volume's voxels along each axis.
            voxel_size: the volume's voxel size along each axis in mm.
            spacing: wanted working voxel size in mm, rounded to a whole number of voxels; None for the volume's own.
        """
        native = tuple(shape)
        if spacing is None:
            return cls(native, native)
        sizes = zip(shape, voxel_size, spacing, strict=True)
        return cls(native, tuple(max(1, round(length * own / wanted)) for length, own, wanted in sizes))

    @property
    def is_native(self) -> bool:
        return self.native == self.working

    def working_index(self, axis: int, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which working voxels along an axis contain the centres of voxels of the volume."""
        return (2 * index + 1) * self.working[axis] // (2 * self.native[axis])

    def neighbours(self, axis: int, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
        """Return the two working voxels along an axis between whose centres the voxels of the volume lie.

        Returns:
            The lower one, the upper one, and the upper one's weight, 0 … 1, in a linear interpolation. Beyond the
            centres of the outermost working voxels, the outermost one counts alone.
        """
        return _between(index, self.working[axis], self.native[axis])

    def reach(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each plane of the volume, the first and the last working plane that may take labels from it."""
        planes = np.arange(self.native[axis])
        inside, nearest = self.working_index(axis, planes), self._nearest(axis)
        first = np.minimum(inside, np.searchsorted(nearest, planes, side="left"))
        return first, np.maximum(inside, np.searchsorted(nearest, planes, side="right") - 1)

    def near(self, axis: int, flags: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
        """Return flags of the volume's planes that are within a distance of flagged ones.

        Args:
            axis: the axis that the planes lie across.
            flags: a flag for each of the volume's planes.
            margin: the distance in working planes.
        """
        first, last = self.reach(axis)
        starts, stops = first[flags] - margin, last[flags] + margin
        # Starts and stops are sorted. A plane is near if more intervals start up to its last working plane than stop
        # before its first one.
        ended = np.searchsorted(stops, first, side="left")
        begun = np.searchsorted(starts, last, side="right")
        return begun > ended

    def _nearest(self, axis: int) -> NDArray[np.int64]:
        """Return which planes of the volume contain the centres of the working planes."""
        native, working = self.native[axis], self.working[axis]
        return (2 * np.arange(working) + 1) * native // (2 * working)

    def voxel_size(self, native: Sequence[float]) -> tuple[float, ...]:
        """Return the working voxel size along each axis, given the volume's own, in the same unit."""
        sizes = zip(native, self.native, self.working, strict=True)
        return tuple(size * before / after for size, before, after in sizes)

    def image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample an image (C, *native) to (C, *working) linearly, smoothed first along axes that get coarser."""
        if self.is_native:
            return image
        # Imported here, because MONAI takes seconds to import, and few processes need it.
        from monai.transforms import Resize

        resize = Resize(self.working, mode="trilinear", align_corners=False, anti_aliasing=True)
        return np.asarray(resize(torch.as_tensor(image)), dtype=np.float32)

    def image_box(self, read: Callable[[Box], NDArray[np.float32]], box: Box) -> NDArray[np.float32]:
        """Resample a box of an image, to the same values as ``image``.

        Args:
            read: returns a box (C, *box) of the volume. It is called once, for the voxels that are needed.
            box: of working voxels.
        """
        if self.is_native:
            return read(box)
        sigma = [max(0.0, (before / after - 1) / 2) for before, after in zip(self.native, self.working, strict=True)]
        # MONAI cuts its Gaussian off at four standard deviations, at least at one voxel.
        reach = [int(max(4 * width, 0.5) + 0.5) if any(sigma) else 0 for width in sigma]
        along = [
            _between(np.arange(side.start, side.stop), before, after)
            for side, before, after in zip(box, self.native, self.working, strict=True)
        ]
        starts = [max(0, int(low[0]) - margin) for (low, _, _), margin in zip(along, reach, strict=True)]
        stops = [
            min(size, int(high[-1]) + 1 + margin)
            for (_, high, _), margin, size in zip(along, reach, self.native, strict=True)
        ]
        x, y, z = map(slice, starts, stops)
        values = torch.as_tensor(read((x, y, z)))
        if any(sigma):
            from monai.transforms import GaussianSmooth

            # A network that computes in bfloat16 may be about to read the box.
            with torch.autocast("cpu", enabled=False):
                values = torch.as_tensor(GaussianSmooth(sigma)(values))
        return _interpolated(values, along, starts).numpy()

    def annotation(self, annotation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resample an annotation (*native) to (*working) so that no painted plane is lost between voxels.

        A working voxel takes the most frequent class of the labelled voxels in it. Ties go to the class of the voxel
        nearest to its centre, and among equally near voxels to the last. A working voxel without labelled voxels, as on
        a finer grid, takes the value of the nearest voxel.
        """
        if self.is_native:
            return annotation
        result = np.empty(self.working, dtype=np.uint8)
        inside = self.working_index(0, np.arange(self.native[0]))
        nearest = [self._nearest(axis) for axis in range(3)]
        # One working plane at a time, since votes take many times the memory of labels.
        for index, plane in enumerate(result):
            start, stop = np.searchsorted(inside, [index, index + 1])
            plane[...] = annotation[nearest[0][index]][np.ix_(nearest[1], nearest[2])]
            self._vote(plane, annotation[start:stop], start)
        return result

    def _vote(self, plane: NDArray[np.uint8], annotation: NDArray[np.uint8], start: int) -> None:
        """Set the working voxels of a plane that contain labelled voxels.

        Args:
            plane: a plane of the working grid.
            annotation: the volume's planes that lie in it.
            start: the index of the first of these planes.
        """
        labelled = np.nonzero(annotation)
        if len(labelled[0]) == 0:
            return
        values = annotation[labelled].astype(np.int64)
        rows, columns = (self.working_index(axis, labelled[axis]) for axis in (1, 2))
        flat, number = rows * plane.shape[1] + columns, int(values.max()) + 1
        votes = np.bincount(flat * number + values, minlength=plane.size * number).reshape(-1, number)
        most = votes.max(axis=1)
        winners = votes == most[:, None]
        plane.ravel()[most > 0] = winners.argmax(axis=1)[most > 0]
        tied = winners[flat, values] & (np.count_nonzero(winners, axis=1) > 1)[flat]
        places = (labelled[0] + start, *labelled[1:])
        distance = sum(self._from_centre(axis, place[tied]) ** 2 for axis, place in enumerate(places))
        # The nearest voxel is assigned last.
        order = np.argsort(-np.asarray(distance), kind="stable")
        plane.ravel()[flat[tied][order]] = values[tied][order]

    def _from_centre(self, axis: int, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the offset of voxels from the centre of their working voxel along an axis, in working voxels."""
        position = (2 * index + 1) * self.working[axis] / (2 * self.native[axis])
        return np.round(position - self.working_index(axis, index) - 0.5, 9)

    def back(self, probabilities: Tensor) -> Tensor:
        """Resample class probabilities (classes, *working) to (classes, *native), linearly."""
        if self.is_native:
            return probabilities
        return functional.interpolate(
            probabilities.unsqueeze(0), size=self.native, mode="trilinear", align_corners=False
        )[0]

    def back_in_box(self, probabilities: Tensor, part: Sequence[slice], box: Box) -> Tensor:
        """Resample class probabilities to a box of the volume, to the same values as ``back``.

        Args:
            probabilities: (classes, *part).
            part: the working voxels that the box depends on, or more.
            box: of the volume's voxels.
        """
        if self.is_native:
            return probabilities
        along = [self.neighbours(axis, np.arange(side.start, side.stop)) for axis, side in enumerate(box)]
        return _interpolated(probabilities, along, [side.start for side in part])

    def slice_back(self, probabilities: Tensor, axis: int) -> Tensor:
        """Resample a slice's class probabilities (classes, *working without the axis) to the volume's own grid."""
        if self.is_native:
            return probabilities
        native = [size for other, size in enumerate(self.native) if other != axis]
        return functional.interpolate(probabilities.unsqueeze(0), size=native, mode="bilinear", align_corners=False)[0]


def _between(index: NDArray[np.int64], others: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Any]:
    """Return the two voxels between whose centres voxels of another grid over the same extent lie, along an axis.

    Args:
        index: of the voxels on their grid.
        others: number of voxels of the grid to look in.
        count: number of voxels of their own grid.

    Returns:
        As ``WorkingGrid.neighbours``.
    """
    at = np.clip((index + 0.5) * others / count - 0.5, 0, others - 1)
    low = at.astype(np.int64)
    return low, np.minimum(low + 1, others - 1), at - low


def _interpolated(values: Tensor, along: Sequence[tuple[Any, Any, Any]], starts: Sequence[int]) -> Tensor:
    """Interpolate values (C, *part) linearly, one axis after the other.

    Args:
        values: of a part of a grid.
        along: for each axis the lower voxel, the upper voxel and the upper one's weight of each result.
        starts: first voxel of the part along each axis.
    """
    for axis, ((low, high, share), start) in enumerate(zip(along, starts, strict=True), start=1):
        below, above = (values.index_select(axis, torch.as_tensor(index - start)) for index in (low, high))
        shape = [1] * values.ndim
        shape[axis] = len(share)
        values = below.lerp(above, torch.as_tensor(share, dtype=values.dtype).reshape(shape))
    return values
