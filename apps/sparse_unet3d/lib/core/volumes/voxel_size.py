"""The voxel size of files that state none. It is in the environment, so that all processes of a server use the same."""

import os

_VARIABLE = "SPARSE_UNET3D_VOXEL_SIZE"


def set_size_without_metadata(size: tuple[float, float, float] | None) -> None:
    """Use a voxel size along X, Y, Z in mm for files that state none, here and in processes started from now on."""
    if size is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = ",".join(map(repr, size))


def size_without_metadata() -> tuple[float, float, float] | None:
    """Return the voxel size along X, Y, Z in mm that somebody set for files that state none; None if nobody did."""
    if _VARIABLE not in os.environ:
        return None
    x, y, z = map(float, os.environ[_VARIABLE].split(","))
    return x, y, z
