"""The voxel size that TIFF files state, in millimetres."""

from xml.etree.ElementTree import Element  # nosec B405 - the type only

from tifffile import TiffFile

from .voxel_size import MILLIMETRES, if_valid

_RESOLUTIONS = (282, 283)
"""Tags with the number of pixels in a unit along X and Y."""


def ome_voxel_size(pixels: Element) -> tuple[float, float, float] | None:
    """Return the size along X, Y, Z in mm that an image's OME-XML states; None if it doesn't, or in pixels."""
    sizes = [
        float(pixels.get(f"PhysicalSize{axis}", "0"))
        * MILLIMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"), 0)
        for axis in "XYZ"
    ]
    return if_valid(sizes)


def imagej_voxel_size(file: TiffFile) -> tuple[float, float, float] | None:
    """Return the size along X, Y, Z in mm that ImageJ's metadata states; None if it doesn't, or in pixels.

    ImageJ leaves the size along Z out where it is 1 unit.
    """
    metadata = file.imagej_metadata or {}
    unit = MILLIMETRES.get(str(metadata.get("unit", "")).replace("\\u00B5", "\u00b5").lower(), 0)
    resolutions = [file.pages.first.tags.valueof(tag, (0, 1)) for tag in _RESOLUTIONS]
    sizes = [denominator / numerator if numerator else 0 for numerator, denominator in resolutions]
    return if_valid([size * unit for size in (*sizes, abs(float(metadata.get("spacing", 1))))])
