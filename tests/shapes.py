"""Balls, boxes and tori of known volume, surface and length, as voxels that an affine places in space."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Places = NDArray[np.float64]
"""(3, X, Y, Z) the place of each voxel in mm, from the middle of the shape."""


def places(size: float, spacing: tuple[float, float, float], turned: float = 0) -> Places:
    """Return the places of a grid of voxels around a shape of a size in mm, turned by some degrees about all axes."""
    # The shape's middle lies on no voxel.
    shape = [int(size / side) + 7 for side in spacing]
    at = [(np.arange(n) - (n - 1) / 2 - 0.23) * side for n, side in zip(shape, spacing, strict=True)]
    turn = Rotation.from_euler("xyz", [turned, 0.7 * turned, 0.4 * turned], degrees=True).as_matrix()
    found: Places = np.einsum("ij,jxyz->ixyz", turn, np.stack(np.meshgrid(*at, indexing="ij")))
    return found


def ball(at: Places, radius: float) -> NDArray[np.bool_]:
    """Volume 4/3 π r³, surface 4 π r²."""
    inside: NDArray[np.bool_] = (at**2).sum(axis=0) < radius**2
    return inside


def brick(at: Places, sides: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Volume abc, surface 2 (ab + bc + ca)."""
    inside: NDArray[np.bool_] = (np.abs(at) < np.reshape(sides, (3, 1, 1, 1)) / 2).all(axis=0)
    return inside


def torus(at: Places, radius: float, thickness: float) -> NDArray[np.bool_]:
    """Volume 2 π² R r², surface 4 π² R r, length 2 π R, with the radius r of the tube as ``thickness``."""
    inside: NDArray[np.bool_] = (np.hypot(at[0], at[1]) - radius) ** 2 + at[2] ** 2 < thickness**2
    return inside
