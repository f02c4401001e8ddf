"""Annotated volumes as training tiles need them: held in memory, or read tile by tile if they are large."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.annotation.paint import Paint
from lib.core.augmentation.deformation import LinearSampler, mirrored_positions, sample_annotation
from lib.core.plan.plan import Plan
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import open_image, read_volume
from lib.core.volumes.stored_volume import StoredVolume
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid

from .large_image import LargeImage
from .preparation import PreparedImage, prepare_image
from .sampling import HeldVolume

HELD = 1 << 29
"""Most bytes that a prepared image may take to be held in memory for training."""


def read_for_training(path: str | Path) -> Volume | StoredVolume:
    """Read an image; a large one stays in its file if that can be read box by box (OME-Zarr).

    Args:
        path: any of the image's files.

    Raises:
        InputError: as ``read_volume``.
    """
    source = open_image(path)
    if isinstance(source, OmeZarrSource) and _is_large((source.geometry.channels, *source.geometry.shape)):
        return StoredVolume(source)
    return read_volume(path)


def prepare_training(volume: Volume | StoredVolume, paint: Paint, plan: Plan) -> "HeldVolume | LargeVolume":
    """Turn a volume and its annotation into what training tiles are drawn from.

    Raises:
        InputError: the volume has another number of channels than the plan, or is damaged.
    """
    image = prepared(volume, plan)
    grid = WorkingGrid.of(volume.shape, volume.spacing, plan.spacing)
    voxel_size = grid.voxel_size(volume.spacing)
    if not grid.is_native:
        paint = Paint(grid.annotation(paint.array()))
    if isinstance(image, LargeImage):
        return LargeVolume(image, paint, voxel_size)
    return HeldVolume(image, torch.as_tensor(np.ascontiguousarray(paint.array())), voxel_size)


def prepared(volume: Volume | StoredVolume, plan: Plan) -> Tensor | LargeImage:
    """Prepare an image (C, *working), as a whole or, if it is large, box by box.

    Raises:
        InputError: the volume has another number of channels than the plan, or is damaged.
    """
    image = LargeImage(volume, plan)
    if _is_large(image.shape):
        return image
    # A whole volume is resampled by MONAI; boxes get the same values up to rounding.
    return prepare_image(volume, plan)[0] if isinstance(volume, Volume) else image.whole()


def as_prepared(volume: Volume | StoredVolume, image: Tensor | LargeImage, plan: Plan) -> PreparedImage | LargeImage:
    """Return an image that ``prepared`` returned for inference.

    Args:
        volume: the volume.
        image: of the volume.
        plan: the plan that it was prepared by.
    """
    if isinstance(image, LargeImage):
        return image
    if isinstance(volume, StoredVolume):
        return LargeImage(volume, plan, image)
    grid = WorkingGrid.of(volume.shape, volume.spacing, plan.spacing)
    return PreparedImage(volume.name, image, grid, volume.outside)


def _is_large(shape: Sequence[int]) -> bool:
    return 4 * math.prod(shape) > HELD


class LargeVolume:
    """A volume of which each tile prepares the box that it needs; see ``SampledVolume``.

    Its tiles are those of a ``HeldVolume``, bit for bit, if both have the same prepared image.
    """

    def __init__(self, image: LargeImage, paint: Paint, voxel_size: Sequence[float]) -> None:
        """Take a volume.

        Args:
            image: the image.
            paint: the annotation on the image's working grid.
            voxel_size: along each axis.
        """
        self.image, self.shape, self.voxel_size = image, image.shape[1:], voxel_size
        self._paint, self._device = paint, "cpu"

    @property
    def nbytes(self) -> int:
        """0: boxes are on the device only while a tile is drawn."""
        return 0

    def voxels(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        places, values = self._paint.places()
        flat = np.ravel_multi_index(places, self.shape)
        order = np.argsort(flat, kind="stable")
        return flat[order], values[order]

    def to(self, device: str) -> "LargeVolume":
        moved = copy.copy(self)
        moved._device = device
        return moved

    def image_at(self, positions: Tensor) -> Tensor:
        """See ``SampledVolume``.

        Raises:
            InputError: the file is damaged.
        """
        mirrored = torch.stack([mirrored_positions(*pair) for pair in zip(positions, self.shape, strict=True)])
        # The voxels on both sides of each position
        box = self._box(mirrored.floor(), 2)
        place = (slice(None), *box)
        image = self.image[place].to(self._device)
        return LinearSampler(image)(_from(box, mirrored))

    def annotation_at(self, positions: Tensor) -> Tensor:
        nearest = positions.round()
        box = self._box(nearest, 1)
        painted = torch.as_tensor(self._paint.array(box)).to(self._device)
        return sample_annotation(painted, _from(box, nearest))

    def _box(self, positions: Tensor, size: int) -> tuple[slice, slice, slice]:
        """Return the part of the volume that cubes lie in which start at whole positions (3, *tile)."""
        first, last = positions.flatten(1).amin(dim=1).tolist(), positions.flatten(1).amax(dim=1).tolist()
        x, y, z = (
            slice(min(max(int(low), 0), length - 1), max(min(int(high) + size, length), 1))
            for low, high, length in zip(first, last, self.shape, strict=True)
        )
        return x, y, z


def _from(box: tuple[slice, slice, slice], positions: Tensor) -> Tensor:
    """Return positions (3, *tile) counted from the first voxel of a box. The difference has no rounding error."""
    return positions - torch.tensor([side.start for side in box], device=positions.device).view(3, 1, 1, 1)
