"""Images of every kind that annotators bring."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from serving import SHAPE, scaled


def placed(*spacing: float, turned: tuple[float, float, float] = (0, 0, 0)) -> NDArray[np.float64]:
    """An affine with these voxel sizes (negative: mirrored), rotated about the three axes by degrees."""
    affine = scaled(*spacing)
    affine[:3, :3] = Rotation.from_euler("xyz", turned, degrees=True).as_matrix() @ affine[:3, :3]
    return affine


AFFINES = {
    "RAS": placed(0.5, 0.5, 1.25),
    "LPS": placed(-0.5, -0.5, 1.25),
    "left-handed": placed(-0.5, 0.5, 1.25),
    "oblique": placed(0.5, 0.5, 1.25, turned=(20, -35, 50)),
    "oblique, left-handed": placed(0.5, -0.5, 1.25, turned=(20, -35, 50)),
    "sagittal": placed(0.5, 0.5, 1.25, turned=(90, 0, 90)),
    "anisotropic": placed(0.25, 0.4, 3.1),
}


def write_channels(form: str, stem: Path, affine: NDArray[np.float64]) -> list[Path]:
    """Write an image of three channels in one of the accepted forms; return its files."""
    channels = np.random.default_rng(7).integers(0, 250, (*SHAPE, 3)).astype(np.uint8)
    path = stem.with_suffix(".nrrd" if form == "vector NRRD" else ".nii.gz")
    if form == "vector NRRD":
        return [write_nrrd(path, channels, affine)]
    if form == "a file for each":
        paths = [stem.with_name(f"{stem.name}_{number:04d}.nii.gz") for number in range(3)]
        for number, path in enumerate(paths):
            nibabel.save(nibabel.Nifti1Image(channels[..., number], affine), path)
        return paths
    if form == "RGB24":
        channels = channels.view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    elif form != "channels last":
        channels = channels[:, :, :, None]
    image = nibabel.Nifti1Image(channels, affine)
    if form == "5-D, vector intent":
        image.header.set_intent("vector")
    nibabel.save(image, path)
    return [path]


def write_nrrd(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    """Write (X, Y, Z) or (X, Y, Z, C) by ITK, as Slicer does."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, *range(3, array.ndim)), isVector=array.ndim > 3)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path
