"""Whether an annotation lies on its image, and what to do if it doesn't."""

import os
import shlex
import subprocess

import numpy as np

from lib.core.errors import InputError
from lib.core.volumes.grids import check_on_grid
from lib.core.volumes.volume import Geometry, Placed


def require_fit(image_id: str, version: int, stored: Geometry, image: Placed, studies: str) -> None:
    """Refuse an annotation that doesn't lie on its image.

    Args:
        image_id: the image.
        version: version of the annotation.
        stored: grid of the annotation.
        image: grid of the image.
        studies: the folder that is served.

    Raises:
        InputError: says how the two differ, and what to do.
    """
    try:
        check_on_grid(stored, image)
    except InputError as error:
        raise InputError(describe_misfit(image_id, version, stored, image, studies)) from error


def describe_misfit(image_id: str, version: int, stored: Placed, image: Placed, studies: str) -> str:
    """Say how a version of an annotation and its image differ, and what to do; for arguments see ``require_fit``."""
    if stored.shape != image.shape:
        return (
            f"image {image_id!r}: {image.name} has the shape {image.shape}, but version {version} of its annotation "
            f"has {stored.shape}: the image was replaced. Put the earlier file back, or paint this one and submit it"
        )
    now, then = (
        " × ".join(f"{size:.6g}" for size in np.linalg.norm(placed.affine[:3, :3], axis=0))
        for placed in (image, stored)
    )
    how = f"voxel size {now} mm instead of {then} mm" if now != then else "another place or direction"
    return (
        f"image {image_id!r}: {image.name} has the same voxels as version {version} of its annotation in another "
        f"geometry ({how}). If its header was corrected, the paint still fits voxel by voxel: python "
        f"apps/sparse_unet3d annotations restore {_quoted(image_id)} {version} --by-voxel --studies "
        f"{_quoted(studies)}. If the image was replaced by another one, put the earlier file back"
    )


def _quoted(text: str) -> str:
    """Quote a word of a command for the shell of this system."""
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)
