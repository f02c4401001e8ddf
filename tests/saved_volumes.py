"""Volumes of numbered voxels, saved by nibabel and pynrrd, and read by ITK through SimpleITK."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray
from scipy.spatial.transform import Rotation

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (5, 6, 7)


def affine_of(
    spacing: Sequence[float] = (0.5, 1.25, 3.0),
    angles: Sequence[float] = (0, 0, 0),
    origin: Sequence[float] = (-12.5, 40.25, 7.0),
    mirror: bool = False,
) -> NDArray[np.float64]:
    """(4, 4) voxel to RAS: size in mm, rotations about x, y, z in degrees, position of the first voxel in mm."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine @ np.diag([-1.0 if mirror else 1.0, 1, 1, 1])


AFFINES = {
    "straight": affine_of(),
    "oblique": affine_of(angles=(10, -25, 70)),
    "left-handed": affine_of(mirror=True),
    "left-handed oblique": affine_of(angles=(10, -25, 70), mirror=True),
    "sagittal": affine_of(angles=(90, 0, 90)),
    "microscope": affine_of(spacing=(0.00026, 0.00026, 0.002), origin=(0.1, -0.2, 0.05)),
}


def numbers(shape: tuple[int, ...] = SHAPE, dtype: DTypeLike = np.int16) -> NDArray[Any]:
    """0, 1, 2, … in C order."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


NAN = np.where(numbers() == 100, np.nan, numbers()).astype(np.float32)


def save_nifti(
    path: Path,
    array: NDArray[Any],
    affine: NDArray[np.float64] = AFFINES["oblique"],
    intent: str | None = None,
    **header: Any,
) -> Path:
    """Save an array, channels last, with equal qform and sform; then set the fields of ``header``."""
    image = nibabel.Nifti1Image(array, None)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    if intent:
        image.header.set_intent(intent)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def save_nrrd(path: Path, array: NDArray[Any], header: dict[str, Any] | None = None) -> Path:
    """Save an array with the fields of a header."""
    nrrd.write(str(path), array, header or {})
    return path


def itk_affine(path: Path) -> NDArray[np.float64]:
    """The affine (RAS) that ITK reads from the file's first three axes."""
    image = sitk.ReadImage(str(path))
    n = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing())[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return RAS @ affine


def itk_array(path: Path) -> NDArray[Any]:
    """(C, X, Y, Z) as ITK reads it."""
    image = sitk.ReadImage(str(path))
    array = np.moveaxis(sitk.GetArrayFromImage(image), (0, 1, 2), (2, 1, 0))
    return np.moveaxis(array, 3, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]


def misread(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine as 3D Slicer misreads channels of NIfTI: spacing and origin right, no directions (LPS identity)."""
    expected = np.diag([*(np.linalg.norm(affine[:3, :3], axis=0) * [-1, -1, 1]), 1.0])
    expected[:3, 3] = affine[:3, 3]
    return expected
