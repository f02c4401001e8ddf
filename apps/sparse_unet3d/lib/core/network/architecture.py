"""The interface of an architecture, through which all other code uses a network."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .evaluator import Evaluator, WholeTiles
from .tile_sizes import TileSizes


class Architecture(ABC):
    """A kind of network. An instance of a subclass is available once it is listed in ``architectures``.

    The network maps an image (N, C, *spatial) of valid sizes to logits (N, classes, *spatial), which are shorter by the
    context at both ends of each axis. In training it may return a list of such logits, the most weighted ones
    first (deep supervision). Its resolution steps are listed as ``tile_sizes.layers`` expects.

    Attributes:
        name: its name in ``--conf network`` and in the plan.
    """

    name: ClassVar[str]

    @abstractmethod
    def build(
        self, channels: int, classes: int, width: int, dims: int = 3, batch_norm: bool = True, padded: bool = False
    ) -> nn.Module:
        """Return an untrained network.

        Args:
            channels: channels of the image.
            classes: channels of the output.
            width: feature maps of the first convolution, or what scales all layers alike.
            dims: 3, or 2 for the network of slices.
            batch_norm: normalise after convolutions.
            padded: pad some convolutions with zeros, so that a tile needs less context; the weights' names and shapes
                stay.
        """

    @functools.cached_property
    def tiles(self) -> TileSizes:
        """The tile sizes of the network, found from its layers."""
        # The global generator stays as it is.
        with torch.random.fork_rng(devices=[]):
            return TileSizes.of(*(self.build(1, 2, width=1, dims=2, padded=padded) for padded in (False, True)))

    def given_shape(self, shape: Sequence[int], tile: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the input from which ``compute`` computes a tile.

        Args:
            shape: the volume in voxels.
            tile: valid input sizes.
        """
        return tuple(tile)

    def compute(self, network: nn.Module, given: Tensor, tile: Sequence[int]) -> Tensor:
        """Compute the logits (N, classes, *output) of tiles at once, calling each layer as a module.

        Args:
            network: built by this architecture.
            given: (N, C, *given), see ``given_shape``.
            tile: valid input sizes.
        """
        logits: Tensor = network(given)
        return logits

    def evaluator(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> Evaluator:
        """Return the evaluator that runs a network with frozen statistics over tiles.

        Args:
            network: built by this architecture, in evaluation mode, on the device to compute on.
            dtype: floating point format to compute in.
        """
        return WholeTiles(network, self.tiles, dtype)
