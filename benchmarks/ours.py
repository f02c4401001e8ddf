"""Our side of the comparisons with other software's inference and augmentation."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.augmentation.deformation import DeformationSettings
from lib.core.augmentation.grey_values import GreyValueSettings
from lib.core.augmentation.settings import AugmentationSettings
from lib.core.data.sampling import HeldVolume, TileSampler
from lib.core.device.precision import half_precision_of
from lib.core.inference.tiling import Tiling
from lib.core.labels import LabelScheme
from lib.core.network.architectures import PAPER
from lib.core.network.unet import UNet

from .data import CHANNELS, CLASSES, PAPER_TILE, PAPER_WIDTH

ROTATION = DeformationSettings.rotation
SCALING = DeformationSettings.scaling
ELASTIC_SD = DeformationSettings.elastic_sd
ELASTIC_SPACING = DeformationSettings.elastic_spacing
GREY_SLOPE_SD = GreyValueSettings.slope_sd


def paper_network(width: int = PAPER_WIDTH) -> UNet:
    """Return the paper's network in evaluation mode, with frozen statistics of a tile of smooth values."""
    torch.manual_seed(0)
    network = UNet(CHANNELS, CLASSES, width)
    normalisations = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for module in normalisations:
        module.momentum = 1.0
    with torch.no_grad():
        coarse = torch.rand(1, CHANNELS, 13, 13, 13)
        network(torch.nn.functional.interpolate(coarse, size=(100, 100, 100), mode="trilinear"))
    return network.eval()


def whole_volume(
    image: NDArray[np.float32], memory: float, device: str = "cpu", width: int = PAPER_WIDTH
) -> Callable[[Callable[[float], None]], NDArray[np.uint8]]:
    """Prepare the segmentation of a whole volume.

    Args:
        image: (C, X, Y, Z) in 0 … 1.
        memory: bytes that it may take.
        device: ``cpu`` or ``cuda``.
        width: width of the network.

    Returns:
        A function that takes a function to call with the progress, 0 … 1, and returns classes (X, Y, Z).
    """
    network, tensor = paper_network(width).to(device), torch.from_numpy(image)

    def segment(progress: Callable[[float], None]) -> NDArray[np.uint8]:
        evaluator = PAPER.evaluator(network, half_precision_of(device))
        return Tiling(tensor, evaluator, PAPER.tiles, int(memory)).labels(progress)

    return segment


def tile_sampler(
    image: NDArray[np.float32],
    annotation: NDArray[np.uint8],
    tile: tuple[int, ...] = PAPER_TILE,
    rotation: float = ROTATION,
    scaling: float = SCALING,
    elastic_sd: float = ELASTIC_SD,
    grey_values: bool = True,
    device: str = "cpu",
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Prepare the drawing of augmented training tiles.

    Args:
        image: (C, X, Y, Z) in 0 … 1.
        annotation: (X, Y, Z) values 0 … 3.
        tile: input sizes.
        rotation, scaling, elastic_sd: strengths, see ``DeformationSettings``.
        grey_values: whether to change grey values as well.
        device: ``cpu`` or ``cuda``.

    Returns:
        A function that draws a tile: the image (C, *tile), and the targets of the tile's output.
    """
    volume = HeldVolume(torch.from_numpy(image).to(device), torch.from_numpy(annotation).to(device), (1.0, 1.0, 1.0))
    augmentation = AugmentationSettings(
        DeformationSettings(rotation, scaling, elastic_sd),
        GreyValueSettings() if grey_values else GreyValueSettings(0.0, 0.0),
    )
    sampler = TileSampler(
        [volume], LabelScheme(("inside", "tubule"), "outside"), PAPER.tiles, tile, augmentation, PAPER.tiles.context
    )
    generator = np.random.default_rng(0)
    return lambda: sampler.draw(generator)
