"""Training tiles: centred on labelled voxels, classes balanced, augmented on the fly (section 3.2)."""

import copy
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.augmentation.deformation import (
    LinearSampler,
    draw_deformation,
    sample_annotation,
    source_positions,
)
from lib.core.augmentation.grey_values import apply_grey_mapping, draw_grey_mapping
from lib.core.augmentation.settings import AugmentationSettings
from lib.core.errors import InputError
from lib.core.labels import IGNORED, UNLABELLED, LabelScheme
from lib.core.network.mirroring import cut
from lib.core.network.tile_sizes import TileSizes
from lib.core.plan.plan import Centres

ATTEMPTS = 100
"""Draws before giving up on a tile with labelled voxels. A deformation moves a tile's centre only slightly."""


CONSTANT_ATTEMPTS = 20
"""Draws before a tile is accepted although its image is constant, since the whole image may be."""


class SampledVolume(Protocol):
    """An annotated volume that tiles are drawn from, on the working grid."""

    @property
    def shape(self) -> Sequence[int]:
        """Number of voxels along each axis."""

    @property
    def voxel_size(self) -> Sequence[float]:
        """Along each axis."""

    def voxels(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the labelled voxels: their flat indices in C order (n,), and their values (n,)."""

    @property
    def nbytes(self) -> int:
        """Bytes that the volume takes on its device."""

    def to(self, device: str) -> "SampledVolume":
        """Return the volume for another device, which the positions below are on, and what is returned for them."""

    def image_at(self, positions: Tensor) -> Tensor:
        """Interpolate the image, mirrored outside, at positions (dims, *tile): (C, *tile) float32."""

    def annotation_at(self, positions: Tensor) -> Tensor:
        """Return the annotation, unlabelled outside, nearest to positions (dims, *tile): (*tile) uint8."""


class HeldVolume:
    """A volume in memory, with two or three axes; see ``SampledVolume``.

    Attributes:
        annotation: (*spatial) uint8, values 0 … K+1.
        voxel_size: along each axis.
    """

    def __init__(self, image: Tensor, annotation: Tensor, voxel_size: Sequence[float]) -> None:
        """Hold a volume.

        Args:
            image: (C, *spatial) float32 in 0 … 1.
            annotation: (*spatial) uint8, values 0 … K+1.
            voxel_size: along each axis.
        """
        self.voxel_size = voxel_size
        self._sampler, self.annotation = LinearSampler(image), annotation

    @property
    def shape(self) -> Sequence[int]:
        return self.annotation.shape

    @property
    def image(self) -> Tensor:
        """(C, *shape): a view of the image."""
        return self._sampler.image

    @property
    def nbytes(self) -> int:
        """Bytes that the volume takes."""
        return self._sampler.nbytes + self.annotation.nbytes

    def voxels(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        flat = self.annotation.cpu().numpy().ravel()
        places = np.flatnonzero(flat)
        return places, flat[places]

    def to(self, device: str) -> "HeldVolume":
        moved = copy.copy(self)
        moved._sampler, moved.annotation = self._sampler.to(device), self.annotation.to(device)
        return moved

    def image_at(self, positions: Tensor) -> Tensor:
        return self._sampler(positions)

    def annotation_at(self, positions: Tensor) -> Tensor:
        return sample_annotation(self.annotation, positions)


class _Frame:
    """The tile for volumes of one shape, and the part of it that is drawn.

    If the tile's output covers the volume along an axis, only the volume is deformed along it. It is then mirrored, as
    a whole volume is mirrored for inference. Along other axes, the tile's context is deformed too.
    """

    def __init__(self, shape: Sequence[int], tile: Sequence[int], context: int, tiles: TileSizes) -> None:
        self.tiles = tiles
        self.output = tiles.output_shape(tiles.no_larger_than_needed(tile, shape))
        self.given = tuple(size + 2 * context for size in self.output)
        covered = [output >= length for output, length in zip(self.output, shape, strict=True)]
        self.drawn = tuple(
            length if covers else given for covers, length, given in zip(covered, shape, self.given, strict=True)
        )
        self._starts = tuple(-context if covers else 0 for covers in covered)
        self.labelled = tuple(
            slice(0, length) if covers else slice(context, context + output)
            for covers, length, output in zip(covered, shape, self.output, strict=True)
        )

    def network_input(self, drawn: Tensor) -> Tensor:
        """Turn the drawn part (C, *drawn) into the network's input (C, *given)."""
        return cut(drawn, self._starts, self.given, self.tiles)[0]


class TileSampler:
    """Draws augmented training tiles.

    Args:
        volumes: annotated volumes.
        scheme: the label scheme.
        tiles: the network's tile sizes.
        tile: valid input sizes, which determine the output's size. Volumes that need less get smaller tiles.
        augmentation: strengths.
        context: voxels around the output that are drawn.
        centres: what tiles are centred on with equal probability, see ``Plan``.
        device: where tiles are drawn.

    Attributes:
        class_counts: (classes,) number of labelled voxels of each network class.

    Raises:
        InputError: none of the volumes has a labelled voxel.
    """

    def __init__(
        self,
        volumes: Sequence[SampledVolume],
        scheme: LabelScheme,
        tiles: TileSizes,
        tile: Sequence[int],
        augmentation: AugmentationSettings,
        context: int,
        centres: Centres = "classes",
        device: str = "cpu",
    ) -> None:
        self.device, self._tiles = device, tiles
        self.volumes = [volume.to(device) for volume in volumes]
        self.augmentation, self.context, self.centres = augmentation, context, centres
        self._targets = torch.as_tensor(scheme.targets(np.arange(len(scheme.classes) + 1)))
        self.set_tile(tile)
        # For each class, the volumes that contain it, with the positions of its voxels.
        by_class: dict[int, list[tuple[int, NDArray[np.int64]]]] = {}
        self.class_counts = np.zeros(len(scheme.classes), dtype=np.int64)
        for index, volume in enumerate(volumes):
            places, values = volume.voxels()
            for value in np.unique(values).tolist():
                of_class = places[values == value]
                by_class.setdefault(value, []).append((index, of_class))
                self.class_counts[int(self._targets[value])] += len(of_class)
        self._voxels = [by_class[value] for value in sorted(by_class)]
        if not self._voxels:
            raise InputError("training: no voxel is labelled in any annotation; paint a slice and submit it first")

    def set_tile(self, tile: Sequence[int]) -> None:
        """Draw tiles of other input sizes from now on."""
        self._frames = [_Frame(volume.shape, tile, self.context, self._tiles) for volume in self.volumes]

    @property
    def largest(self) -> tuple[int, ...]:
        """Largest number of voxels along each axis over all volumes."""
        return tuple(max(lengths) for lengths in zip(*(volume.shape for volume in self.volumes), strict=True))

    def keep_on_host(self) -> None:
        """Move the volumes from the device's memory to the host's, and draw tiles there."""
        self.device = "cpu"
        self.volumes = [volume.to("cpu") for volume in self.volumes]

    @property
    def tile_voxels(self) -> int:
        """Largest number of voxels of a tile: its output and the context around it."""
        return max(math.prod(frame.given) for frame in self._frames)

    def draw(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Draw one tile.

        Args:
            generator: the only source of randomness.

        Returns:
            Image (C, *given) float32, and targets (*output) int64 of the tile's output, at least one of them labelled.
            The image reaches beyond the output by the context on each side.
        """
        drawn = None
        for attempt in range(ATTEMPTS):
            index, centre = self._draw_place(generator)
            frame, volume = self._frames[index], self.volumes[index]
            deformation = draw_deformation(
                generator, centre, frame.drawn, self.augmentation.deformation, volume.voxel_size
            )
            positions = source_positions(deformation, frame.drawn, self.device)
            within = (slice(None), *frame.labelled)
            labels = volume.annotation_at(positions[within])
            if not torch.any(labels != UNLABELLED):
                continue
            drawn = frame, volume.image_at(positions), labels
            # Batch normalisation turns a constant tile into noise with large gradients. Leaving such tiles out loses
            # nothing.
            if attempt >= CONSTANT_ATTEMPTS or not is_constant(drawn[1]):
                break
        if drawn is None:
            raise InputError(f"training: no tile with a labelled voxel was found in {ATTEMPTS} draws; annotate more")
        frame, image, labels = drawn
        mapping = draw_grey_mapping(generator, len(image), self.augmentation.grey_values)
        image = apply_grey_mapping(image, mapping)
        targets = torch.full(frame.output, IGNORED, device=labels.device)
        inside = tuple(slice(0, size) for size in labels.shape)
        targets[inside] = self._targets.to(labels.device)[labels.long()]
        return frame.network_input(image), targets

    def _draw_place(self, generator: np.random.Generator) -> tuple[int, list[int]]:
        """Draw class, volume and labelled voxel, and centre the tile there.

        If the tile's output would reach beyond the volume, the tile is moved inside: nothing outside is labelled.
        """
        if self.centres == "classes":
            found = self._voxels[generator.integers(len(self._voxels))]
            index, voxels = found[generator.integers(len(found))]
        else:
            every = [pair for found in self._voxels for pair in found]
            counts = np.array([len(voxels) for _, voxels in every])
            index, voxels = every[generator.choice(len(every), p=counts / counts.sum())]
        shape = self.volumes[index].shape
        voxel = np.unravel_index(voxels[generator.integers(len(voxels))], shape)
        centre = []
        for position, length, output in zip(voxel, shape, self._frames[index].output, strict=True):
            before = output // 2
            after = length - (output - before)
            centre.append(int(np.clip(position, before, after)) if after >= before else length // 2)
        return index, centre


def is_constant(image: Tensor) -> bool:
    """Return whether each channel of an image (C, *spatial) has one value throughout."""
    flat = image.flatten(1)
    return bool(torch.all(flat.amin(dim=1) == flat.amax(dim=1)))
