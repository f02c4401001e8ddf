"""Slices of volumes as pictures, in the orientation of 3D Slicer."""

import io
from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from lib.core.volumes.volume import Volume

CHANNEL_COLOURS = {
    1: ((1, 1, 1),),
    2: ((1, 0, 1), (0, 1, 0)),
    3: ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
CHANNEL_NAMES = {1: ("grey",), 2: ("magenta", "green"), 3: ("red", "green", "blue")}
AXES = "xyz"
PICTURE_PIXELS = 270
"""Width on the screen of a volume's longest side."""
DIMMED = 0.45
MOST_PNG_PIXELS = 150**2

Picture = NDArray[np.uint8]
"""RGB, (rows, columns, 3)."""


@dataclass(frozen=True)
class View:
    """How a slice is laid out, so that it looks as in 3D Slicer.

    Args:
        axis: the axis that the slice is perpendicular to.
        index: its index along that axis.
        across: the array's axis that runs from left to right.
        down: the array's axis that runs from top to bottom.
        flips: which of ``across`` and ``down`` are reversed.
    """

    axis: int
    index: int
    across: int
    down: int
    flips: frozenset[int]

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """Take the slice out of (X, Y, Z) or (C, X, Y, Z): (rows, columns) or (C, rows, columns)."""
        lead = array.ndim - 3
        plane: NDArray[Any] = np.take(array, self.index, axis=lead + self.axis)
        if self.across < self.down:
            plane = plane.swapaxes(-1, -2)
        if self.across in self.flips:
            plane = plane[..., ::-1]
        if self.down in self.flips:
            plane = plane[..., ::-1, :]
        return plane


def view(volume: Volume, axis: int, index: int) -> View:
    """Lay out a slice as 3D Slicer's axial, coronal or sagittal view does.

    Axial views show the patient's left on the right and posterior below. Coronal views show left on the right and
    inferior below; sagittal views show posterior on the right and inferior below.
    """
    affine = volume.affine if volume.slicer_affine is None else volume.slicer_affine
    codes = nibabel.aff2axcodes(affine)
    # World axis of each voxel axis.
    world = {other: "RAS".find(code) if code in "RAS" else "LPI".find(code) for other, code in enumerate(codes)}
    across, down = sorted((other for other in range(3) if other != axis), key=lambda other: world[other])
    flips = frozenset(other for other in (across, down) if codes[other] not in "LPI")
    return View(axis, index, across, down, flips)


def composite(plane: NDArray[np.float32]) -> Picture:
    """Turn a slice's channels (C, rows, columns) in 0 … 1 into RGB; at most the first three are shown."""
    shown = CHANNEL_COLOURS[min(len(plane), 3)]
    rgb = np.tensordot(plane[: len(shown)], np.array(shown, np.float32), axes=(0, 0))
    return np.clip(rgb * 255, 0, 255).astype(np.uint8)


def painted(plane: NDArray[np.float32], labels: NDArray[np.integer[Any]], table: NDArray[np.uint8]) -> Picture:
    """Lay labels over the dimmed grey image.

    Args:
        plane: (C, rows, columns) in 0 … 1.
        labels: (rows, columns); where they are 0, the image is seen.
        table: colours by label, see ``colours``.
    """
    grey = (plane.mean(axis=0) * 255 * DIMMED).astype(np.uint8)
    return np.where((labels == 0)[..., np.newaxis], grey[..., np.newaxis], table[labels])


def png_of(picture: Picture) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def file_of(picture: Picture) -> bytes:
    """Return a picture as a PNG file if it is small, else as a JPEG file.

    Voxels of small pictures are seen one by one. Large pictures of noisy volumes take a fifth of the space as JPEG.
    """
    if picture.shape[0] * picture.shape[1] <= MOST_PNG_PIXELS:
        return png_of(picture)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def png_of_figure(figure: Figure, dpi: int) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
