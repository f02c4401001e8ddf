"""Rotation, scaling and smooth dense elastic deformation in one resampling (section 3.2).

``draw_deformation`` makes all random choices. ``LinearSampler`` and ``sample_annotation`` then sample the volume at the
``source_positions`` of the tile's voxels.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

ROWS_AT_ONCE = 6
"""Rows of a tile that a CPU interpolates together, few enough for its cache. A GPU takes all rows."""

MARGIN = 2
"""Control points beyond the tile on each side. They keep the spline's boundary rule from affecting the tile."""


@dataclass(frozen=True)
class DeformationSettings:
    """How strongly tiles are deformed.

    Attributes:
        rotation: largest rotation about each axis in degrees, drawn uniformly from ± this.
        scaling: largest change of size; the factor is drawn log-uniformly from 1/(1 + scaling) … 1 + scaling.
        elastic_sd: standard deviation in voxels, along each axis, of the vectors at the control points.
        elastic_spacing: distance between control points in voxels, the same along each axis.
    """

    rotation: float = 15.0
    scaling: float = 0.15
    elastic_sd: float = 4.0
    elastic_spacing: int = 32


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where each voxel of a tile comes from: ``centre + matrix @ (x - tile // 2) + displacement(x)``.

    Attributes:
        centre: (dims,) source position of the tile's middle voxel, in voxels.
        matrix: (dims, dims) rotation and scaling, in voxels.
        vectors: (dims, *control points) displacement at the control points in source voxels. The first control point
            lies ``MARGIN`` spacings before the tile's first voxel.
        spacing: distance between control points in tile voxels.
    """

    centre: NDArray[np.float64]
    matrix: NDArray[np.float64]
    vectors: NDArray[np.float64]
    spacing: int


def control_points(tile: Sequence[int], spacing: int) -> tuple[int, ...]:
    """Return the number of control points along each axis of a tile."""
    return tuple(math.ceil((size - 1) / spacing) + 1 + 2 * MARGIN for size in tile)


def identity_deformation(centre: Sequence[int], tile: Sequence[int], spacing: int) -> Deformation:
    """Return the deformation that copies the tile from the volume unchanged."""
    dims = len(tile)
    vectors = np.zeros((dims, *control_points(tile, spacing)))
    return Deformation(np.asarray(centre, dtype=float), np.eye(dims), vectors, spacing)


def draw_deformation(
    generator: np.random.Generator,
    centre: Sequence[int],
    tile: Sequence[int],
    settings: DeformationSettings,
    voxel_size: Sequence[float],
) -> Deformation:
    """Draw rotation, scaling and control point vectors.

    Args:
        generator: the only source of randomness.
        centre: source voxel of the tile's middle voxel, before elastic displacement.
        tile: input sizes of the tile, two or three axes.
        settings: strengths.
        voxel_size: of the volume along each axis, in any unit. Rotations are rigid in space, not in voxel indices.
    """
    dims = len(tile)
    angles = np.radians(generator.uniform(-settings.rotation, settings.rotation, size=3 if dims == 3 else 1))
    factor = math.exp(generator.uniform(-1, 1) * math.log1p(settings.scaling))
    size = np.asarray(voxel_size, dtype=float)
    matrix = factor * (_rotation(angles) * size) / size[:, None]
    vectors = settings.elastic_sd * generator.standard_normal((dims, *control_points(tile, settings.elastic_spacing)))
    return Deformation(np.asarray(centre, dtype=float), matrix, vectors, settings.elastic_spacing)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrix in the plane (one angle), or about x, y and z in turn (three angles), in radians."""
    if len(angles) == 1:
        cos, sin = math.cos(angles[0]), math.sin(angles[0])
        return np.array([[cos, -sin], [sin, cos]])
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def _spline_weights(size: int, points: int, spacing: int) -> NDArray[np.float64]:
    """Return (size, points): the cubic B-spline weight of each control point at each voxel along an axis."""
    distance = np.abs(np.arange(size)[:, None] / spacing + MARGIN - np.arange(points)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def displacement(deformation: Deformation, tile: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Interpolate the vectors by cubic B-splines; at a control point the result is its vector.

    Returns:
        (dims, *tile) float32 displacement in source voxels.
    """
    dims = len(tile)
    coefficients = np.stack([ndimage.spline_filter(v, order=3, mode="mirror") for v in deformation.vectors])
    field = torch.as_tensor(coefficients, dtype=torch.float32, device=device)
    for axis, size in enumerate(tile):
        weights = _spline_weights(size, coefficients.shape[1 + axis], deformation.spacing)
        field = torch.tensordot(field, torch.as_tensor(weights, dtype=torch.float32, device=device), ([1], [1]))
    # Each product moves its axis to the end; after all of them the order is the original one.
    assert field.ndim == dims + 1
    return field


def source_positions(deformation: Deformation, tile: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return (dims, *tile) float32: the source voxel position of each tile voxel."""
    dims = len(tile)
    positions = displacement(deformation, tile, device)
    for source in range(dims):
        positions[source] += float(deformation.centre[source])
        for axis, size in enumerate(tile):
            offsets = torch.arange(size, dtype=torch.float32, device=device) - size // 2
            shape = [-1 if a == axis else 1 for a in range(dims)]
            positions[source] += float(deformation.matrix[source, axis]) * offsets.view(shape)
    return positions


class LinearSampler:
    """Interpolates an image linearly at given positions, mirrored outside the volume.

    The result is that of ``grid_sample`` with reflection, which took twice the time on CPUs. A table holds neighbours
    along the last axis side by side, so that all channels around a position are gathered and weighted at once.
    """

    def __init__(self, image: Tensor) -> None:
        """Prepare an image (C, *volume) float32, on any device."""
        self.channels, *self.shape = image.shape
        last = image.movedim(0, -1)
        after = torch.cat([last[..., 1:, :], last[..., -1:, :]], dim=-2)
        self._pairs = torch.cat([last, after], dim=-1).reshape(-1, 2 * self.channels)

    @property
    def image(self) -> Tensor:
        """(C, *volume): a view of the image."""
        image: Tensor = self._pairs[:, : self.channels].T.view(self.channels, *self.shape)
        return image

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._pairs.nbytes

    def to(self, device: str) -> "LinearSampler":
        """Return the same sampler on another device."""
        moved = copy.copy(self)
        moved._pairs = self._pairs.to(device)
        return moved

    def __call__(self, positions: Tensor) -> Tensor:
        """Interpolate.

        Args:
            positions: (dims, *tile) float32 source voxel positions.

        Returns:
            (C, *tile) float32.
        """
        tile = positions.shape[1:]
        image = torch.empty((self.channels, *tile), device=positions.device)
        at_once = ROWS_AT_ONCE if positions.device.type == "cpu" else tile[0]
        for start in range(0, tile[0], at_once):
            rows = positions[:, start : start + at_once]
            image[:, start : start + at_once] = self._interpolate(rows.flatten(1)).T.view(-1, *rows.shape[1:])
        return image

    def _interpolate(self, positions: Tensor) -> Tensor:
        """Interpolate at (dims, n) positions; return (n, C)."""
        *others, last = range(len(self.shape))
        # Indices of 32 bits take half the time of those of 64.
        index = torch.int32 if math.prod(self.shape) < 2**31 else torch.int64
        whole, part = [], []
        for axis, size in enumerate(self.shape):
            mirrored = mirrored_positions(positions[axis], size)
            # Along the last axis the table holds the neighbour; along the others the volume must have one.
            below = mirrored.floor() if axis == last else mirrored.floor().clamp_(max=max(size - 2, 0))
            part.append(mirrored.sub_(below))
            whole.append(below.to(index))
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        first = whole[last]
        for axis in others:
            first = first.add(whole[axis], alpha=strides[axis])
        corners = list(itertools.product((0, 1), repeat=len(others)))
        rows = torch.empty((len(first), len(corners)), dtype=index, device=positions.device)
        weights = torch.empty(rows.shape, device=positions.device)
        for column, corner in enumerate(corners):
            taken = [axis for axis, is_next in zip(others, corner, strict=True) if is_next and self.shape[axis] > 1]
            torch.add(first, sum(strides[axis] for axis in taken), out=rows[:, column])
            factors = [part[axis] if is_next else 1 - part[axis] for axis, is_next in zip(others, corner, strict=True)]
            weights[:, column] = math.prod(factors[1:], start=factors[0])
        both = functional.embedding_bag(rows, self._pairs, per_sample_weights=weights, mode="sum")
        return torch.lerp(both[:, : self.channels], both[:, self.channels :], part[last].unsqueeze(1))


def mirrored_positions(positions: Tensor, size: int) -> Tensor:
    """Return a new tensor of positions mirrored into 0 … size - 1, repeatedly if the volume is thin."""
    if size == 1:
        return torch.zeros_like(positions)
    folded = positions.remainder(2 * (size - 1))
    return (folded.sub_(size - 1).abs_().neg_()).add_(size - 1)


def sample_annotation(annotation: Tensor, positions: Tensor) -> Tensor:
    """Sample an annotation at the nearest voxels. Positions outside the volume are unlabelled.

    Args:
        annotation: (*volume) uint8.
        positions: (dims, *tile) source voxel positions.

    Returns:
        (*tile) uint8.
    """
    shape = annotation.shape
    nearest = torch.round(positions).long()
    inside = torch.ones(nearest.shape[1:], dtype=torch.bool, device=annotation.device)
    flat = torch.zeros(nearest.shape[1:], dtype=torch.long, device=annotation.device)
    for axis, size in enumerate(shape):
        inside &= (nearest[axis] >= 0) & (nearest[axis] < size)
        flat = flat * size + nearest[axis].clamp(0, size - 1)
    return torch.where(inside, annotation.reshape(-1)[flat], 0)
