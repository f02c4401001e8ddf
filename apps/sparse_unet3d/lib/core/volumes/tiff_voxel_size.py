"""The voxel size that TIFF files state, in millimetres."""

import math
from xml.etree.ElementTree import Element  # nosec B405 - the type only

from tifffile import TiffFile

_UNITS = {
    **dict.fromkeys(("pm", "picometer"), 1e-9),
    **dict.fromkeys(("Å", "\u212b", "angstrom"), 1e-7),
    **dict.fromkeys(("nm", "nanometer", "nanometers"), 1e-6),
    **dict.fromkeys(("\u00b5m", "\u03bcm", "um", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
    **dict.fromkeys(("inch", "inches", "in"), 25.4),
}
"""Millimetres of the units that OME and ImageJ name."""

_RESOLUTIONS = (282, 283)
"""Tags with the number of pixels in a unit along X and Y."""


def ome_voxel_size(pixels: Element) -> tuple[float, float, float] | None:
    """Return the size along X, Y, Z in mm that an image's OME-XML states; None if it doesn't, or in pixels."""
    sizes = [
        float(pixels.get(f"PhysicalSize{axis}", "0")) * _UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"), 0)
        for axis in "XYZ"
    ]
    return _if_valid(sizes)


def imagej_voxel_size(file: TiffFile) -> tuple[float, float, float] | None:
    """Return the size along X, Y, Z in mm that ImageJ's metadata states; None if it doesn't, or in pixels.

    ImageJ leaves the size along Z out where it is 1 unit.
    """
    metadata = file.imagej_metadata or {}
    unit = _UNITS.get(str(metadata.get("unit", "")).replace("\\u00B5", "\u00b5").lower(), 0)
    resolutions = [file.pages.first.tags.valueof(tag, (0, 1)) for tag in _RESOLUTIONS]
    sizes = [denominator / numerator if numerator else 0 for numerator, denominator in resolutions]
    return _if_valid([size * unit for size in (*sizes, abs(float(metadata.get("spacing", 1))))])


def _if_valid(sizes: list[float]) -> tuple[float, float, float] | None:
    x, y, z = sizes
    return (x, y, z) if all(math.isfinite(size) and size > 0 for size in sizes) else None
