"""All architectures by name."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.core.errors import check_one_of

from .architecture import Architecture
from .repetition import compute_repeated, given_shape
from .residual import Residual
from .slabs import Slabs
from .unet import UNet


class Paper(Architecture):
    """The paper's network, evaluated slab by slab; input that repeats itself is computed once."""

    name = "unet"

    def build(
        self, channels: int, classes: int, width: int, dims: int = 3, batch_norm: bool = True, padded: bool = False
    ) -> UNet:
        return UNet(channels, classes, width, dims, batch_norm, padded)

    def given_shape(self, shape: Sequence[int], tile: Sequence[int]) -> tuple[int, ...]:
        return given_shape(shape, tile, self.tiles)

    def compute(self, network: nn.Module, given: Tensor, tile: Sequence[int]) -> Tensor:
        assert isinstance(network, UNet)
        return compute_repeated(network, given, tile)

    def evaluator(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> Slabs:
        assert isinstance(network, UNet)
        return Slabs(network, self.tiles, dtype)


PAPER = Paper()

ARCHITECTURES: dict[str, Architecture] = {each.name: each for each in (PAPER, Residual())}


def architecture(name: str) -> Architecture:
    """Return an architecture by its name.

    Raises:
        InputError: there is no such architecture.
    """
    check_one_of("network", name, ARCHITECTURES)
    return ARCHITECTURES[name]
