"""NIfTI and NRRD: from the bytes of a file to channels, axes and millimetres, as 3D Slicer understands them.

Both formats leave room for interpretation, and who paints does so in Slicer. So wherever readers differ (which of two
NIfTI matrices counts, units, missing geometry) the reading here is the one of ITK, which Slicer reads files with.
Affines map voxel indices (x, y, z, 1) to RAS millimetres.
"""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Affine = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns a place in LPS millimetres (NRRD's usual, ITK's own) into RAS millimetres, and back."""

_VECTOR_INTENTS = (1005, 1006, 1007)
"""NIfTI intents (symmetric matrix, displacement, vector) for which the fifth axis counts as components of a voxel."""

_MILLIMETRES = {1: 1e3, 3: 1e-3}
"""Millimetres in a NIfTI spatial unit by its code, metre and micrometre; all others count as millimetres."""

_SPATIAL_KINDS = ("domain", "space", "none", "???")
"""Kinds of an NRRD axis that don't make it a channel axis."""

_NRRD_SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
"""Signs that take an NRRD space to RAS; all spaces not listed count as LPS."""


class Stored(NamedTuple):
    """What a file holds.

    Attributes:
        array: (C, X, Y, Z), the stored type (floats where the file says that values are to be rescaled).
        affine: (4, 4) voxel to RAS mm.
        slicer_affine: (4, 4) the affine that 3D Slicer takes the file to have where it misreads it, else None.
        slicer_reverses: whether Slicer numbers the slices along Z from the other end.
    """

    array: NDArray[Any]
    affine: Affine
    slicer_affine: Affine | None
    slicer_reverses: bool


def read_nifti(path: Path) -> Stored:
    """Read a NIfTI file (1 or 2, ``.nii`` or ``.nii.gz``).

    (X, Y, Z), channels last (X, Y, Z, C), on the fifth axis (X, Y, Z, 1, C), or RGB. Slicer gets the directions of
    channels last wrong unless the fifth axis has vector intent: ``slicer_affine``.

    Raises:
        InputError: fewer than three axes, or channels at several times.
        Exception: of many kinds where the file is damaged.
    """
    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        # All at once, not through nibabel, which stops before the check sum at the end.
        content = gzip.decompress(content)
    version_2 = 540 in (int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big"))
    image = (nibabel.Nifti2Image if version_2 else nibabel.Nifti1Image).from_bytes(content)
    header, array = image.header, np.asanyarray(image.dataobj)

    shape = array.shape
    if len(shape) < 3:
        raise InputError(_not_3d(path, shape))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 5 or (len(shape) == 5 and shape[3] != 1):
        raise InputError(
            f"{path}: the array has shape {array.shape}; expected (X, Y, Z), (X, Y, Z, C) or (X, Y, Z, 1, C); "
            f"save one point in time per file"
        )
    array = array.reshape(*shape[:3], -1)
    if array.dtype.names:
        array = np.concatenate([array[name] for name in array.dtype.names], axis=3)

    affine = _nifti_affine(header)
    is_vector = len(shape) == 5 and int(header["intent_code"]) in _VECTOR_INTENTS
    misread = _without_directions(affine) if len(shape) > 3 and not is_vector else None
    # What Slicer misreads, it takes for right-handed.
    return Stored(np.moveaxis(array, 3, 0), affine, misread, misread is None and _is_left_handed(affine))


def _nifti_affine(header: Any) -> Affine:
    """Choose between a NIfTI header's two matrices as ITK does, which differs from nibabel's choice.

    sform where it is the only one, or has code 1 ("scanner") and no shear; else qform; with neither, the voxel size
    alone, in LPS.
    """
    scale = np.diag([*[_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    sform = np.asarray(header.get_sform(), dtype=np.float64)
    if sform_code > 0 and (qform_code <= 0 or (sform_code == 1 and not _is_sheared(sform))):
        affine = sform
    elif qform_code > 0:
        affine = np.asarray(header.get_qform(), dtype=np.float64)
    else:
        affine = LPS_TO_RAS @ np.diag([*np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)), 1.0])
    placed: Affine = scale @ affine
    return placed


def _is_left_handed(affine: Affine) -> bool:
    """Whether the grid is one that Slicer turns around along Z as soon as it has read it."""
    return bool(np.linalg.det(affine[:3, :3]) < 0)


def _is_sheared(affine: Affine) -> bool:
    """Whether two axes of the grid aren't perpendicular (within what float32 can tell)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4)


def _without_directions(affine: Affine) -> Affine:
    """Keep voxel size and origin, and take the axes for those of LPS: what Slicer does to channels last."""
    misread: Affine = LPS_TO_RAS @ np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
    misread[:3, 3] = affine[:3, 3]
    return misread


def write_nifti(path: Path, array: NDArray[np.uint8], affine: Affine) -> None:
    """Write a map (X, Y, Z) with the affine as qform and sform alike, so that all readers agree on it.

    A qform cannot hold shear; a sheared affine is the sform alone.
    """
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=0 if _is_sheared(affine) else 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def read_nrrd(path: Path) -> Stored:
    """Read an NRRD file with the voxels in it.

    (X, Y, Z), or with a channel axis at any place: one of another kind than space (``vector``, ``RGB-color``,
    ``list``, …) or without a direction in space. Without any geometry, the fourth axis.

    Raises:
        InputError: not three axes in space, complex values, or voxels in another file.
        Exception: of many kinds where the file is damaged.
    """
    # Of monai's reader only the call of this package would be left: it can't place volumes with a channel axis. It is
    # monai's optional dependency, so whoever has NIfTI files alone needs it as little.
    import nrrd

    with path.open("rb") as file:
        header = nrrd.read_header(file)
        if "data file" in header or "datafile" in header:
            raise InputError(f"{path}: the voxels are in another file; save header and voxels in one .nrrd file")
        array = nrrd.read_data(header, file, str(path))

    kinds = [str(kind).lower() for kind in header.get("kinds", ["domain"] * array.ndim)]
    if "complex" in kinds:
        raise InputError(f"{path}: the values are complex; expected integers or real numbers, save e.g. the magnitude")
    directions = header.get("space directions")
    placed = [True] * array.ndim if directions is None else [bool(np.isfinite(row).all()) for row in directions]
    channel_axes = [axis for axis in range(array.ndim) if kinds[axis] not in _SPATIAL_KINDS or not placed[axis]]
    if not channel_axes and array.ndim == 4 and directions is None:
        channel_axes = [3]
    spatial_axes = [axis for axis in range(array.ndim) if axis not in channel_axes]
    if len(spatial_axes) < 3:
        raise InputError(_not_3d(path, array.shape))
    if len(spatial_axes) > 3 or len(channel_axes) > 1:
        raise InputError(
            f"{path}: the array has shape {array.shape} with axes of kinds {', '.join(kinds)}; expected three axes in "
            f"space and at most one of channels; save one volume per file"
        )

    affine = np.eye(4)
    if directions is None:
        spacing = np.asarray(header.get("spacings", np.ones(array.ndim)), dtype=np.float64)[spatial_axes]
        affine[:3, :3] = np.diag(np.where(np.isfinite(spacing), spacing, 1.0))
    else:
        affine[:3, :3] = np.asarray([directions[axis] for axis in spatial_axes], dtype=np.float64).T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    signs = _NRRD_SPACES.get(str(header.get("space", "")).lower(), (-1.0, -1.0, 1.0))
    affine = np.diag([*signs, 1.0]) @ affine
    array = array.transpose(*channel_axes, *spatial_axes).reshape(-1, *[array.shape[axis] for axis in spatial_axes])
    # Slicer reads several channels by another library than one, which leaves left-handed grids as they are.
    return Stored(array, affine, None, len(array) == 1 and _is_left_handed(affine))


def write_nrrd(path: Path, array: NDArray[np.uint8], affine: Affine) -> None:
    """Write a map (X, Y, Z) in LPS, as Slicer does."""
    import nrrd

    lps = LPS_TO_RAS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain", "domain", "domain"],
        "encoding": "gzip",
    }
    nrrd.write(str(path), array, header, compression_level=1)


def _not_3d(path: Path, shape: tuple[int, ...]) -> str:
    return (
        f"{path}: a 2-D image (array of shape {shape}); expected a volume with at least 2 voxels along each of 3 axes"
    )


READERS: dict[str, Callable[[Path], Stored]] = {".nii": read_nifti, ".nii.gz": read_nifti, ".nrrd": read_nrrd}
WRITERS: dict[str, Callable[[Path, NDArray[np.uint8], Affine], None]] = {
    ".nii": write_nifti,
    ".nii.gz": write_nifti,
    ".nrrd": write_nrrd,
}


def split_ending(name: str) -> tuple[str, str]:
    """Part a file name into what comes before its ending, and the ending as written; that is empty if it isn't known.

    Known are the keys of ``READERS`` in small and in capital letters.
    """
    ending = next((ending for ending in READERS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], name[len(name) - len(ending) :]


def ending_of(path: Path) -> str:
    """Give the ending that says how a file is read and written, a key of ``READERS`` and ``WRITERS``.

    Raises:
        InputError: another ending.
    """
    ending = split_ending(path.name)[1].lower()
    if not ending:
        raise InputError(f"{path}: unknown file ending; expected {', '.join(READERS)}; convert it, e.g. with 3D Slicer")
    return ending
