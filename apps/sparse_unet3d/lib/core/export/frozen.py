"""A trained network as one module of torch's own layers, which other software can run on images of any size.

The network's own modules choose between implementations while they run. What other software reads has to be a fixed
graph: convolutions with batch normalisation folded in, poolings, and crops of constant size. What the network sees
around a box of the image, or beyond the image's border, is cut out by the graph too.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.errors import InputError
from lib.core.network.residual import ResidualBlock, ResidualUNet
from lib.core.network.tile_sizes import TileSizes, crops
from lib.core.network.unet import UNet


class FrozenNetwork(nn.Module):
    """A 3-D network with frozen statistics that computes a box of an image of any size.

    Outside the image it sees what inference sees: the image's mirror image, see ``mirroring``. It computes on the CPU
    or a GPU, in float32.
    """

    crops: list[int]

    def __init__(self, network: nn.Module, tiles: TileSizes) -> None:
        """Copy a network.

        Args:
            network: 3-D, in evaluation mode; it normalises by the statistics kept in it, if at all.
            tiles: the network's tile sizes.

        Raises:
            InputError: a network of an architecture that can't be exported.
        """
        super().__init__()
        if isinstance(network, UNet):
            step_of: Callable[[Any], nn.Module] = _plain
            classify: nn.Module = network.classify
        elif isinstance(network, ResidualUNet):
            step_of, classify = _Block, network.classify[-1]
        else:
            raise InputError(
                f"the network {type(network).__name__} can't be exported, unet and residual can; "
                "train one of these by --conf network"
            )
        self.analysis, self.synthesis = (
            nn.ModuleList(map(step_of, path)) for path in (network.analysis, network.synthesis)
        )
        self.pool = nn.MaxPool3d(kernel_size=2, stride=2)
        self.up = nn.ModuleList(_up(layer) for layer in network.up)
        self.classify = _convolution(classify)
        paths = ([step.modules() for step in path] for path in (network.analysis, network.synthesis))
        self.crops = crops(*(list(map(list, path)) for path in paths))
        self.context, self.lattice, self.smallest = tiles.context, tiles.lattice, tiles.smallest
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, first: Tensor, size: Tensor) -> Tensor:
        """Compute the class probabilities of a box, which are the same as in the whole image.

        Args:
            image: (1, C, X, Y, Z) float32 on the working grid, scaled to 0 … 1.
            first: (3,) int64, the first voxel of the box; multiples of the lattice.
            size: (3,) int64, the number of its voxels along each axis.

        Returns:
            (1, K + 1, *size) float32 in 0 … 1: the background first.
        """
        features = image
        for axis in range(3):
            features = self._around(features, axis + 2, int(first[axis]), int(size[axis]))
        shortcuts: list[Tensor] = []
        for level, step in enumerate(self.analysis):
            if level > 0:
                features = self.pool(features)
            features = step(features)
            shortcuts.append(features)
        shortcuts.pop()
        for up, step in zip(self.up, self.synthesis):  # noqa: B905 (TorchScript knows no strict)
            features = up(features)
            shortcut = shortcuts.pop()
            crop = self.crops[len(shortcuts)]
            shortcut = shortcut[:, :, crop:-crop, crop:-crop, crop:-crop]
            features = step(torch.cat([features, shortcut], dim=1))
        logits: Tensor = self.classify(features)
        return logits[:, :, : int(size[0]), : int(size[1]), : int(size[2])].softmax(dim=1)

    def _around(self, image: Tensor, axis: int, first: int, size: int) -> Tensor:
        """Cut out what the network needs for a part of an axis, mirrored as by ``mirroring.mirror``."""
        length = image.shape[axis]
        repeat = max(2, (2 * (length - 1) + self.lattice - 1) // self.lattice) * self.lattice
        thin = int(repeat < self._input_size(length))
        at = torch.arange(self._input_size(size), device=image.device) + (first - self.context)
        at = _folded(at, thin * (repeat // 2 + 1) + (1 - thin) * length)
        return image.index_select(axis, _folded(at, length))

    def _input_size(self, output: int) -> int:
        needed = output + 2 * self.context
        return max(self.smallest, needed + (self.smallest - needed) % self.lattice)


def _folded(positions: Tensor, length: int) -> Tensor:
    folded = torch.remainder(positions, max(1, 2 * (length - 1)))
    return torch.minimum(folded, 2 * (length - 1) - folded)


class _Block(nn.Module):
    """A ``ResidualBlock`` of plain layers."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.convolutions, self.shortcut = _plain(block.convolutions), _convolution(block.shortcut)

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.convolutions(features)
        same: Tensor = self.shortcut(features[:, :, 2:-2, 2:-2, 2:-2])
        return torch.relu(changed + same)


def _plain(step: Iterable[nn.Module]) -> nn.Sequential:
    """Return convolutions and ReLUs of torch, batch normalisation folded into the convolutions."""
    layers: list[nn.Module] = []
    for layer, following in itertools.pairwise([*step, nn.Identity()]):
        if isinstance(layer, nn.Conv3d):
            plain = _convolution(layer)
            layers.append(fuse_conv_bn_eval(plain, following) if isinstance(following, _BatchNorm) else plain)
        elif isinstance(layer, nn.ReLU):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _convolution(layer: nn.Module) -> nn.Conv3d:
    assert isinstance(layer, nn.Conv3d)
    plain = nn.Conv3d(layer.in_channels, layer.out_channels, layer.kernel_size[0])
    plain.load_state_dict(layer.state_dict())
    return plain.eval()


def _up(layer: nn.Module) -> nn.ConvTranspose3d:
    assert isinstance(layer, nn.ConvTranspose3d)
    plain = nn.ConvTranspose3d(layer.in_channels, layer.out_channels, kernel_size=2, stride=2, bias=False)
    plain.load_state_dict(layer.state_dict())
    return plain
