"""What the network's lowest resolution step finds in slices, so that unlike slices can be told apart."""

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.data.preparation import prepare_image
from lib.core.network.batch_norm import by_running_statistics
from lib.core.network.mirroring import cut_tile
from lib.core.network.unet import UNet
from lib.core.plan.plan import Plan
from lib.core.volumes.volume import Volume

FIRST = -10.5
"""Voxel at the middle of what the lowest step's first feature sees, of a tile whose output starts at voxel 0."""

SliceFeatures = tuple[NDArray[np.float64], ...]
"""For each axis (slices, F): each slice's mean features."""


@torch.inference_mode()
def slice_features(network: UNet, plan: Plan, volume: Volume) -> SliceFeatures:
    """Return the mean features of each slice, those of slices between two of the lattice interpolated.

    Args:
        network: the U-Net; its kept averages normalise.
        plan: what it was trained by.
        volume: of any size that memory allows to be one tile.
    """
    image, _ = prepare_image(volume, plan)
    frozen = by_running_statistics(network)
    tiles = plan.architecture.tiles
    given = cut_tile(image, (0, 0, 0), tiles.covering(image.shape[1:]), tiles)
    features = given.to(next(network.parameters()).device)
    for level, convolutions in enumerate(frozen.analysis):
        features = convolutions(frozen.pool(features) if level else features)
    # Only those in the middle of the volume; beyond, it is mirrored.
    positions = [FIRST + tiles.lattice * np.arange(length) for length in features.shape[2:]]
    inside = [
        (at > -tiles.lattice / 2) & (at < n - 1 + tiles.lattice / 2)
        for at, n in zip(positions, image.shape[1:], strict=True)
    ]
    within = features[0].double().cpu().numpy()[:, inside[0]][:, :, inside[1]][:, :, :, inside[2]]
    by_axis = []
    for axis, length in enumerate(volume.shape):
        means = within.mean(axis=tuple(1 + other for other in range(3) if other != axis))
        centres = (np.arange(length) + 0.5) * image.shape[1 + axis] / length - 0.5
        by_axis.append(np.stack([np.interp(centres, positions[axis][inside[axis]], own) for own in means], axis=1))
    return tuple(by_axis)
