"""The interface between images and file formats. Other modules don't know how files are laid out.

A new format is one module with a class like ``VolumeSource``, and one entry in ``formats.FORMATS``.
"""

from typing import Any, Protocol

from numpy.typing import NDArray

from .volume import Geometry

Box = tuple[slice, slice, slice]
"""A box of an image's voxels: start and stop along X, Y and Z, without a step."""


def shape_of_box(box: Box | None, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the size (X, Y, Z) of a box in an image of a shape (X, Y, Z); None is the whole image."""
    if box is None:
        return shape
    x, y, z = (len(range(*side.indices(length))) for side, length in zip(box, shape, strict=True))
    return x, y, z


class VolumeSource(Protocol):
    """An image that can be read: a file, a folder of chunks, or the files of several channels.

    Creating a source reads headers but no voxels, and raises ``InputError`` if the image can't be used.
    """

    @property
    def geometry(self) -> Geometry:
        """The image's grid, channels and type of numbers, and how 3D Slicer misreads it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell a person about what the file states, or doesn't state."""

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box, or all of them.

        Returns:
            (C, X, Y, Z) of the box, C-contiguous, of type ``geometry.dtype``. NaN and infinite values stay.

        Raises:
            InputError: the voxels are damaged or inaccessible.
            MemoryError: there is not enough memory.
        """

    def working_memory(self, box: Box | None = None) -> int:
        """Return how many bytes ``read`` takes besides the array that it returns.

        A source that reads chunks needs room for a few of them. One whose file is compressed as a whole needs room for
        all voxels.
        """
