"""Images and label maps: their voxels, and where these lie in space.

Arrays are indexed by voxel in the order of the file, never reoriented; affines map voxel indices to RAS millimetres.
"""

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import nibabel
import numpy as np
from numpy.typing import NDArray

from .formats import Affine

GRID_TOLERANCE = 0.1
"""Voxels by which two grids may differ at their corners and still be the same: files keep positions in float32."""


class Placed(Protocol):
    """What has a voxel grid in space: an image's ``Geometry``, or the ``Volume`` itself."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel to RAS mm."""

    @property
    def slicer_affine(self) -> Affine | None:
        """(4, 4) the affine that 3D Slicer gives the image where it misreads it, else None."""

    @property
    def slicer_reverses(self) -> bool:
        """Whether Slicer numbers the slices along Z from the other end."""

    @property
    def name(self) -> str:
        """What messages call it."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """What an image's headers say: its grid, without any voxel.

    Attributes:
        shape: (X, Y, Z).
        affine: (4, 4) voxel to RAS mm.
        channels: how many there are.
        dtype: the type of numbers that the image's array will have.
        slicer_affine, name, slicer_reverses: as in ``Volume``.
    """

    shape: tuple[int, int, int]
    affine: Affine
    channels: int
    dtype: np.dtype[Any]
    slicer_affine: Affine | None = None
    name: str = "the image"
    slicer_reverses: bool = False

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return spacing_of(self.affine)

    def slice_from_slicer(self, k: int) -> int:
        """Return the index along Z of the slice that 3D Slicer calls ``k``; both count from 0."""
        return self.shape[2] - 1 - k if self.slicer_reverses else k


@dataclass(frozen=True, eq=False)
class Volume:
    """An image.

    Attributes:
        array: (C, X, Y, Z), integers or finite floats as stored.
        affine: (4, 4) voxel to RAS mm.
        slicer_affine: (4, 4) the affine that 3D Slicer gives the image where it misreads it (NIfTI with channels last
            and no vector intent: voxel size and origin right, directions lost), else None.
        name: what messages call it: the file, where it came from one.
        slicer_reverses: whether Slicer numbers the slices along Z from the other end, as in most left-handed files.
        outside: (X, Y, Z) the voxels that are NaN in every channel of the file, or None where there are none.
        notes: what a person should be told about the file.
    """

    array: NDArray[Any]
    affine: Affine
    slicer_affine: Affine | None = None
    name: str = "the image"
    slicer_reverses: bool = False
    outside: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """C."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        x, y, z = self.array.shape[1:]
        return x, y, z

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
        )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return spacing_of(self.affine)

    def slice_from_slicer(self, k: int) -> int:
        """Return the index along Z of the slice that 3D Slicer calls ``k``; both count from 0."""
        return self.geometry.slice_from_slicer(k)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A map of integers at least 0.

    Attributes:
        array: (X, Y, Z), integers as stored (int64 where whole numbers were stored as floats).
        affine: (4, 4) voxel to RAS mm.
        name: what messages call it: the file, where it came from one.
    """

    array: NDArray[np.integer[Any]]
    affine: Affine
    name: str = "the label map"


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Return the size of a voxel along X, Y, Z in mm."""
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def describe_grid(shape: tuple[int, ...], affine: Affine) -> str:
    """Describe a grid for messages."""
    size = " × ".join(f"{size:.6g}" for size in spacing_of(affine))
    origin = ", ".join(f"{place:.6g}" for place in affine[:3, 3])
    towards = "".join(nibabel.aff2axcodes(affine))
    return f"shape {tuple(shape)}, voxel size {size} mm, origin ({origin}) mm RAS, axes towards {towards}"


def checksum(volume: Volume) -> int:
    """Return a number that tells an image from another one that came in its place."""
    return zlib.crc32(np.ascontiguousarray(volume.array).data, zlib.crc32(volume.affine.tobytes()))
