"""File formats: their endings, and from a file to channels, axes and millimetres, as 3D Slicer understands them.

Who paints does so in Slicer, and Slicer reads with ITK. So ITK reads here, too: all rules of the formats are its own.
What is added is how Slicer's scene differs from what ITK reads (``_as_in_slicer``).
Affines map voxel indices (x, y, z, 1) to RAS millimetres.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError

from .file_contents import inspect, nifti_voxels, nrrd_fields, verify
from .voxel_order import copy_voxels, in_order_of_files

Affine = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns a place in LPS millimetres (ITK's own) into RAS millimetres, and back."""

_IMAGE_IO = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}
"""ITK's reader and writer by the ending of the file."""

ENDINGS = tuple(_IMAGE_IO)
"""Endings of the files that can be read and written."""

SEGMENTATION = ".seg"
"""What 3D Slicer puts before the ending of its segmentations."""

_NAMED_SPACES = (
    "left-posterior-superior",
    "lps",
    "left-anterior-superior",
    "las",
    "right-anterior-superior",
    "ras",
)
"""The NRRD spaces that Slicer knows in files with several channels; it takes all others for RAS, and ITK for LPS."""

_MAX_SHEAR = 2e-4
"""By how much the cosine of two axes' angle may differ from 0; ITK opens no NIfTI file with a larger one."""

# What ITK warns of goes to the terminal of the server, where it tells nobody anything.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


class Header(NamedTuple):
    """What the header of a file says.

    Attributes:
        shape: (X, Y, Z).
        channels: how many there are.
        dtype: of the voxels once they are read (floats where the file says that values are to be rescaled).
        affine: (4, 4) voxel to RAS mm.
        slicer_affine: (4, 4) the affine that 3D Slicer takes the file to have where it misreads it, else None.
        slicer_reverses: whether Slicer numbers the slices along Z from the other end.
        fields: what is said besides, by key, such as the segments of Slicer's segmentations.
    """

    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    affine: Affine
    slicer_affine: Affine | None
    slicer_reverses: bool
    fields: dict[str, str]

    @property
    def bytes(self) -> int:
        """How much memory the voxels take."""
        return math.prod(self.shape) * self.channels * self.dtype.itemsize


def read_header(path: Path, ending: str | None = None) -> Header:
    """Read a header, and no voxel.

    Args:
        path: of the file.
        ending: one of ``ENDINGS``, which says the format; by default the file's own.

    Raises:
        InputError: no such file, unknown ending, damaged, not to be opened by 3D Slicer either, fewer than three axes,
            several points in time, complex, impossible or sheared geometry.
    """
    ending = ending or ending_of(path)
    capacity = inspect(path, ending)
    reader = _reader(path, ending)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error

    dimension, channels, size = reader.GetDimension(), reader.GetNumberOfComponents(), reader.GetSize()
    if dimension < 3:
        raise InputError(
            f"{path}: a 2-D image (array of shape {size}); expected a volume with at least 2 voxels along each of 3 "
            "axes"
        )
    if dimension > 5 or (dimension == 5 and size[3] != 1) or (dimension > 3 and channels > 1):
        raise InputError(
            f"{path}: the array has shape {size} with {channels} components in each voxel; expected (X, Y, Z), (X, Y, "
            "Z, C) or (X, Y, Z, 1, C); save one point in time per file"
        )
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{path}: the values are complex; expected integers or real numbers, save e.g. the magnitude")

    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(reader.GetDirection(), (dimension, dimension)) * reader.GetSpacing())[:3, :3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine = LPS_TO_RAS @ affine
    _check_affine(path, affine)
    shape, dtype = (size[0], size[1], size[2]), _dtype(reader)
    slicer_affine, slicer_reverses = _as_in_slicer(path, ending, shape, affine, dimension, channels)
    header = Header(
        shape,
        channels * math.prod(size[3:]),
        dtype,
        affine,
        slicer_affine,
        slicer_reverses,
        {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()},
    )
    if header.bytes > capacity:
        raise InputError(
            f"{path}: the header declares {header.bytes} bytes of voxels (shape {size}), of which the file can hold "
            f"{capacity} at most; the file is damaged or incomplete, copy or export it again"
        )
    return header


def read_voxels(path: Path, header: Header, to: NDArray[Any], ending: str | None = None) -> None:
    """Read the voxels of a file.

    Args:
        path, header: of the file.
        to: (C, X, Y, Z), what they are read into.
        ending: as in ``read_header``.

    Raises:
        InputError: the file is damaged.
        MemoryError: memory is short.
    """
    ending = ending or ending_of(path)
    if ending.startswith(".nii"):
        _read_nifti(path, header, to)
        return
    verify(path, ending)
    try:
        image = _reader(path, ending).Execute()
    except RuntimeError as error:
        if "memory" in str(error).lower() or "bad_alloc" in str(error):
            raise MemoryError(str(error)) from error
        raise _unreadable(path, error) from error
    voxels = sitk.GetArrayViewFromImage(image)
    interleaved = image.GetNumberOfComponentsPerPixel() > 1
    by_channel = np.moveaxis(voxels, 3, 0) if interleaved else voxels.reshape(-1, *voxels.shape[-3:])
    for channel, of_file in zip(to, by_channel, strict=True):
        copy_voxels(of_file.T, channel)


def _read_nifti(path: Path, header: Header, to: NDArray[Any]) -> None:
    """Read the voxels of a NIfTI file into (C, X, Y, Z), rescaled as by ITK, which makes floats of them then."""
    stored, slope, intercept = nifti_voxels(path)
    colours = [stored[name] for name in stored.dtype.names or ()]
    channels = colours or np.moveaxis(stored.reshape(*header.shape, -1, order="F"), 3, 0)
    for channel, of_file in zip(to, channels, strict=True):
        copy_voxels(of_file.reshape(header.shape, order="F"), channel)
        if header.dtype.kind == "f" and (slope, intercept) != (1, 0):
            channel *= slope
            channel += intercept


def write(path: Path, array: NDArray[np.uint8], affine: Affine) -> None:
    """Write a map (X, Y, Z), compressed where the format has it; NIfTI with qform and sform alike.

    Raises:
        InputError: unknown ending.
    """
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    # SimpleITK brings voxels into the order of files, too, but takes much longer.
    image = sitk.GetImageFromArray(in_order_of_files(array).T)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    writer = sitk.ImageFileWriter()
    writer.SetImageIO(_IMAGE_IO[ending_of(path)])
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressionLevel(1)
    writer.Execute(image)


def _reader(path: Path, ending: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    # By the ending alone: a file that says to be of another format could reach for other files.
    reader.SetImageIO(_IMAGE_IO[ending])
    reader.SetFileName(str(path))
    return reader


def _dtype(reader: sitk.ImageFileReader) -> np.dtype[Any]:
    """Tell what an image's array will have, by the array of a small image of the same kind."""
    small = sitk.Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(small).dtype
    return dtype


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    """Say why ITK can't open a file."""
    if "orthonormal" in str(error):
        return _sheared(path)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = re.sub(r"^.*\(0x[0-9a-f]+\): ", "", lines[-1]) if lines else "no reason given"
    return InputError(
        f"{path}: cannot be read, and 3D Slicer can't open it either ({reason}); the file is damaged or "
        "incomplete, or its header isn't as its format asks; copy or export it again"
    )


def _sheared(path: Path) -> InputError:
    return InputError(
        f"{path}: the axes of the voxels aren't perpendicular (sheared, as of a tilted gantry), which 3D Slicer can't "
        "open or save in NIfTI files; resample the volume onto a straight grid, e.g. by SimpleITK.Resample, or correct "
        "the header (NIfTI: set a qform)"
    )


def _check_affine(path: Path, affine: Affine) -> None:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        size = np.linalg.norm(affine[:3, :3], axis=0)
        cosines = (affine[:3, :3] / size).T @ (affine[:3, :3] / size)
    if not np.isfinite(affine).all() or not np.isfinite(cosines).all() or abs(np.linalg.det(cosines)) < 1e-6:
        raise InputError(
            f"{path}: the affine {affine[:3].tolist()} places no volume in space; expected a voxel size above 0 along "
            "three different directions, correct the header"
        )
    if np.abs(cosines - np.eye(3)).max() > _MAX_SHEAR:
        raise _sheared(path)


def _as_in_slicer(
    path: Path, ending: str, shape: tuple[int, int, int], affine: Affine, dimension: int, channels: int
) -> tuple[Affine | None, bool]:
    """Tell how 3D Slicer's scene has a file: another affine or None, and whether its slices run the other way.

    Args:
        path, ending: of the file.
        shape: (X, Y, Z).
        affine: as ITK reads it.
        dimension: axes of the file.
        channels: components of each voxel.
    """
    if dimension > 3:
        # Slicer asks ITK for three axes of such a file, and ITK leaves the directions away. What then is
        # right-handed, Slicer doesn't turn around.
        misread: Affine = LPS_TO_RAS @ np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
        misread[:3, 3] = affine[:3, 3]
        return misread, False
    if ending == ".nrrd" and channels > 1:
        # Slicer reads these by another library, which leaves left-handed grids as they are.
        return _as_in_slicer_by_channels(nrrd_fields(path), shape, affine), False
    return None, bool(np.linalg.det(affine[:3, :3]) < 0)


def _as_in_slicer_by_channels(fields: dict[str, str], shape: tuple[int, int, int], affine: Affine) -> Affine | None:
    """Give Slicer's affine of an NRRD file with several channels, or None where it is ITK's."""
    is_named = fields.get("space", "").lower() in _NAMED_SPACES
    is_turned = "space directions" in fields
    has_origin = "nan" not in fields.get("space origin", "nan").lower()
    if is_named and is_turned and has_origin:
        return None
    misread: Affine = LPS_TO_RAS @ affine
    if is_named and is_turned:
        misread[:3, :3] = affine[:3, :3]
    if not has_origin:
        misread[:3, 3] = -misread[:3, :3] @ (np.array(shape) - 1) / 2
    elif is_named:
        misread[:3, 3] = affine[:3, 3]
    return misread


def split_ending(name: str) -> tuple[str, str]:
    """Part a file name into what comes before its ending, and the ending as written; that is empty if it isn't known.

    Known are ``ENDINGS`` in small and in capital letters, also with ``.seg`` before them, as Slicer's segmentations.
    """
    low = name.lower()
    ending = next((ending for ending in ENDINGS if low.endswith(ending)), "")
    if ending and low.endswith(SEGMENTATION + ending):
        ending = SEGMENTATION + ending
    return name[: len(name) - len(ending)], name[len(name) - len(ending) :]


def ending_of(path: Path) -> str:
    """Give the ending that says how a file is read and written, one of ``ENDINGS``.

    Raises:
        InputError: another ending.
    """
    ending = split_ending(path.name)[1].lower().removeprefix(SEGMENTATION)
    if not ending:
        raise InputError(f"{path}: unknown file ending; expected {', '.join(ENDINGS)}; convert it, e.g. with 3D Slicer")
    return ending
