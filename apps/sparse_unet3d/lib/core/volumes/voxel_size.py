"""The voxel size of files: units, the size of files that state none, and the one that is wanted of files with several.

The last two are in the environment, so that all processes of a server use the same.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

_VARIABLE = "SPARSE_UNET3D_VOXEL_SIZE"
_WANTED = "SPARSE_UNET3D_SPACING"

MILLIMETRES = {
    **dict.fromkeys(("pm", "picometer"), 1e-9),
    **dict.fromkeys(("Å", "\u212b", "angstrom"), 1e-7),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-6),
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
    **dict.fromkeys(("inch", "inches", "in"), 25.4),
}
"""Millimetres of the units that OME, ImageJ and Imaris name."""


def if_valid(sizes: Sequence[float]) -> tuple[float, float, float] | None:
    """Return a size along X, Y, Z, or None if it isn't three numbers above 0."""
    x, y, z = sizes
    return (x, y, z) if all(math.isfinite(size) and size > 0 for size in sizes) else None


def set_size_without_metadata(size: tuple[float, float, float] | None) -> None:
    """Use a voxel size along X, Y, Z in mm for files that state none, here and in processes started from now on."""
    _set(_VARIABLE, size)


def size_without_metadata() -> tuple[float, float, float] | None:
    """Return the voxel size along X, Y, Z in mm that somebody set for files that state none; None if nobody did."""
    return _get(_VARIABLE)


def note_without_metadata(path: Path) -> str:
    """Say to a person what the voxel size of a file is that states none."""
    size = size_without_metadata()
    shown = "1 mm. Start the server with --conf voxel X,Y,Z"
    if size is not None:
        shown = f"{' x '.join(f'{number:g}' for number in size)} mm (--conf voxel)"
    return f"{path}: the file doesn't say how large its voxels are; they count as {shown}"


def wanted_spacing() -> tuple[float, float, float] | None:
    """Return the largest voxels along X, Y, Z in mm that are wanted of files with several; None if nobody said it."""
    return _get(_WANTED)


def set_wanted_spacing(spacing: tuple[float, ...] | None) -> None:
    """Want voxels of at most this size along X, Y, Z in mm, here and in processes started from now on."""
    _set(_WANTED, spacing)


def _set(variable: str, size: tuple[float, ...] | None) -> None:
    if size is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = ",".join(map(repr, size))


def _get(variable: str) -> tuple[float, float, float] | None:
    if variable not in os.environ:
        return None
    x, y, z = map(float, os.environ[variable].split(","))
    return x, y, z
