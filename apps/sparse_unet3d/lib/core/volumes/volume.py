"""Images and label maps in memory: their voxels, and where these lie in space.

Arrays are indexed in the file's order of voxels and are never reoriented. Affines map voxel indices (x, y, z, 1) to RAS
millimetres.
"""

import math
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .crop import Crop
from .intensity import Range, ranges_of

Affine = NDArray[np.float64]
"""(4, 4) voxel to RAS mm."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns a position in LPS millimetres, which ITK uses, into RAS millimetres, and back."""


class Placed(Protocol):
    """Anything with a voxel grid in space: an image's ``Geometry``, or the ``Volume`` itself."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel to RAS mm."""

    @property
    def slicer_affine(self) -> Affine | None:
        """(4, 4) the affine that 3D Slicer gives an image that it misreads, else None."""

    @property
    def slicer_reverses(self) -> bool:
        """Whether Slicer numbers the slices along Z from the other end."""

    @property
    def name(self) -> str:
        """What messages call it."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """What an image's headers say, without any voxel.

    Attributes:
        shape: (X, Y, Z).
        affine: (4, 4) voxel to RAS mm.
        channels: number of channels.
        dtype: data type of the image's array: floats if the file asks to rescale its values.
        slicer_affine, name, slicer_reverses, crop: as in ``Volume``.
        unit_note: for people who measure, that the file states no unit of length, or another than is used; else empty.
    """

    shape: tuple[int, int, int]
    affine: Affine
    channels: int
    dtype: np.dtype[Any]
    slicer_affine: Affine | None = None
    name: str = "the image"
    slicer_reverses: bool = False
    crop: Crop | None = None
    unit_note: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm, see ``Volume``."""
        return spacing_of(self.affine)

    @property
    def nbytes(self) -> int:
        """Memory that the voxels take, in bytes."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize

    def slice_from_slicer(self, k: int) -> int:
        """Return the index along Z of the slice that 3D Slicer calls ``k``; both count from 0."""
        return self.shape[2] - 1 - k if self.slicer_reverses else k


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in memory.

    Lengths (``affine``, ``spacing``) are in millimetres, as ITK reads them. NIfTI files in micrometres or metres are
    converted. NIfTI files without a unit, MetaImage files (which have none) and NRRD files (whose unit ITK
    ignores) count as millimetres. An NRRD file in micrometres is therefore shown and described a thousand times too
    large, here as in 3D Slicer. The method doesn't depend on the unit, as long as all images and the plan's spacing
    have the same one.

    Attributes:
        array: (C, X, Y, Z), integers or finite floats as stored.
        affine: (4, 4) voxel to RAS mm.
        slicer_affine: (4, 4) the affine that 3D Slicer gives an image that it misreads (NIfTI with channels last and no
            vector intent: voxel size and origin are right, directions are lost), else None.
        name: what messages call it: the file, if it came from one.
        slicer_reverses: whether Slicer numbers the slices along Z from the other end, as in most left-handed files.
        outside: (X, Y, Z) the voxels that are NaN in every channel of the file, or None where there are none.
        notes: what to tell a person about the file.
        crop: the larger image that this is a box of, if the file says so.
    """

    array: NDArray[Any]
    affine: Affine
    slicer_affine: Affine | None = None
    name: str = "the image"
    slicer_reverses: bool = False
    outside: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    crop: Crop | None = None

    @property
    def channels(self) -> int:
        """C."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        x, y, z = self.array.shape[1:]
        return x, y, z

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """The range of each channel's intensities, or of those of the larger image that this is a box of."""
        return self.crop.ranges if self.crop else ranges_of(self.array)

    def read(self, box: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return a box (C, X, Y, Z)."""
        x, y, z = box
        return self.array[:, x, y, z]

    def outside_in(self, box: tuple[slice, slice, slice]) -> NDArray[np.bool_] | None:
        """Return which voxels of a box were not recorded; None if there are none in the volume."""
        return None if self.outside is None else self.outside[box]

    @property
    def geometry(self) -> Geometry:
        """All but the voxels."""
        return Geometry(
            self.shape,
            self.affine,
            self.channels,
            self.array.dtype,
            self.slicer_affine,
            self.name,
            self.slicer_reverses,
            self.crop,
        )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return spacing_of(self.affine)

    def slice_from_slicer(self, k: int) -> int:
        """Return the index along Z of the slice that 3D Slicer calls ``k``; both count from 0."""
        return self.geometry.slice_from_slicer(k)

    def checksum(self) -> int:
        """Return a checksum; it almost surely changes when another image is stored under the same name."""
        return zlib.crc32(np.ascontiguousarray(self.array).data, zlib.crc32(self.affine.tobytes()))


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A map of non-negative integers.

    Attributes:
        array: (X, Y, Z), integers as stored (int64 where whole numbers were stored as floats).
        affine: (4, 4) voxel to RAS mm.
        name: what messages call it: the file, if it came from one.
    """

    array: NDArray[np.integer[Any]]
    affine: Affine
    name: str = "the label map"


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the size of a voxel along X, Y, Z in mm."""
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z
