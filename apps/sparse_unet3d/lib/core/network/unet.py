"""The 3-D U-Net (section 2, figure 2), and with the same code its 2-D counterpart."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .repetition import cropped, extended
from .tiles import CONTEXT

_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP_CONVOLUTION: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}

SHRINKAGE = 4
"""Voxels that the two convolutions of a resolution step take off along each axis."""

CROPS = (40, 16, 4)
"""Voxels by which the features of each resolution step exceed, on each side, what the synthesis path takes of them."""


class TwoConvolutions(nn.Sequential):
    """Two valid 3×3×3 convolutions, each followed by batch normalisation (if wanted) and ReLU."""

    def __init__(self, channels: int, middle: int, out: int, dims: int, batch_norm: bool) -> None:
        layers: list[nn.Module] = []
        for before, after in ((channels, middle), (middle, out)):
            layers.append(_CONVOLUTION[dims](before, after, kernel_size=3))
            if batch_norm:
                layers.append(_BATCH_NORM[dims](after))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class UNet(nn.Module):
    """Analysis and synthesis path of four resolution steps with cropped shortcut connections.

    Channels double before each pooling, which avoids bottlenecks.

    Args:
        channels: channels of the image.
        classes: channels of the output.
        width: feature maps of the first convolution; the paper's network has 32.
        dims: 3, or 2 for the network of slices.
        batch_norm: normalise before each ReLU.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, dims: int = 3, batch_norm: bool = True) -> None:
        super().__init__()
        self.width = width
        self.analysis = nn.ModuleList()
        before = channels
        for level in range(4):
            middle, after = width << level, width << (level + 1)
            self.analysis.append(TwoConvolutions(before, middle, after, dims, batch_norm))
            before = after
        self.pool = _MAX_POOL[dims](kernel_size=2, stride=2)
        self.up = nn.ModuleList()
        self.synthesis = nn.ModuleList()
        for level in reversed(range(3)):
            shortcut = width << (level + 1)
            # Without bias: the count of the paper's 19 069 955 parameters leaves no room for one.
            self.up.append(_UP_CONVOLUTION[dims](before, before, kernel_size=2, stride=2, bias=False))
            self.synthesis.append(TwoConvolutions(before + shortcut, shortcut, shortcut, dims, batch_norm))
            before = shortcut
        self.classify = _CONVOLUTION[dims](before, classes, kernel_size=1)
        self.apply(_initialise)

    @property
    def feature_lattices(self) -> list[tuple[int, int]]:
        """Where the features lie that the two convolutions of each resolution step compute.

        Returns:
            For each convolution followed by a ReLU, in the order of the layers, ``start`` and ``size``: along each axis
            a feature stands for ``size`` voxels of the image, and the first one begins ``start`` voxels after the first
            voxel of the tile's output.
        """
        levels = range(len(self.analysis))
        begins = [(2 * (1 << level) - 2 - CONTEXT, 1 << level) for level in levels]
        begins += [(2 - 4 * (1 << level), 1 << level) for level in reversed(levels[:-1])]
        return [(begin + step * size, size) for begin, size in begins for step in (1, 2)]

    def forward(self, image: Tensor, tile: Sequence[int] | None = None) -> Tensor:
        """Compute the logits of a tile.

        Args:
            image: (N, C, X, Y, Z), or (N, C, X, Y) in 2-D.
            tile: input sizes that the image stands for, valid in the sense of ``tiles``; None: its own. Along an axis
                where the image is shorter it is one period, a multiple of 8, of an input that repeats itself.

        Returns:
            (N, classes, *tile - 88).
        """
        sizes = list(tile or image.shape[2:])
        repeats = [given < wanted for given, wanted in zip(image.shape[2:], sizes, strict=True)]
        features = image
        shortcuts: list[Tensor] = []
        for level, convolutions in enumerate(self.analysis):
            if level:
                features = self.pool(features)
                sizes = [size // 2 for size in sizes]
            features = convolutions(extended(features, [SHRINKAGE * repeat for repeat in repeats]))
            sizes = [size - SHRINKAGE for size in sizes]
            shortcuts.append(features)
        features = cropped(shortcuts.pop(), [0] * len(sizes), sizes)
        for crop, up, convolutions in zip(reversed(CROPS), self.up, self.synthesis, strict=True):
            features = up(features)
            shortcut = cropped(shortcuts.pop(), [crop] * len(sizes), features.shape[2:])
            features = convolutions(torch.cat([features, shortcut], dim=1))
        logits: Tensor = self.classify(features)
        return logits


def _initialise(module: nn.Module) -> None:
    """Draw weights such that features keep unit variance through ReLUs (the u-net's initialisation, He et al. 2015)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # With stride 2 each output voxel sees one weight per input channel. All voxels that come of one feature begin
        # with the same: otherwise those in regions that training never sees keep a lattice of dots.
        one = module.weight.flatten(2)[..., :1].detach()
        nn.init.normal_(one, std=module.in_channels**-0.5)
        with torch.no_grad():
            module.weight.flatten(2).copy_(one.expand(-1, -1, module.weight[0, 0].numel()))
