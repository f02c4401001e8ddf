"""The 3-D U-Net (section 2, figure 2) and, by the same code, its 2-D counterpart."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib.core.errors import InputError

from .convolution import Convolution3d, UpConvolution3d
from .crop import centre_crop

CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: Convolution3d}
# Without bias: the count of the paper's 19 069 955 parameters leaves no room for one.
UP_CONVOLUTION: dict[int, Any] = {
    2: functools.partial(nn.ConvTranspose2d, kernel_size=2, stride=2, bias=False),
    3: UpConvolution3d,
}
BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class MaxPool3d(nn.MaxPool3d):
    """Max pooling in the features' own precision.

    On a CPU, autocast would convert them to float32 first: three times as long, and the maxima are the same.
    """

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            pooled: Tensor = super().forward(features)
        return pooled


MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: MaxPool3d}

LEVELS = 4
"""Resolution steps."""

COARSEST_SYNTHESIS = LEVELS - 2
"""Number of the coarsest resolution step of the synthesis path, the only one of this path that can be padded."""


class TwoConvolutions(nn.Sequential):
    """Two 3×3×3 convolutions, each followed by batch normalisation (if wanted) and ReLU."""

    def __init__(self, channels: int, middle: int, out: int, dims: int, batch_norm: bool, padded: bool = False) -> None:
        layers: list[nn.Module] = []
        for before, after in ((channels, middle), (middle, out)):
            layers.append(CONVOLUTION[dims](before, after, kernel_size=3, padding=int(padded)))
            if batch_norm:
                layers.append(BATCH_NORM[dims](after))
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
        padded: pad convolutions with zeros: those of the analysis path, and of the coarsest step of the synthesis path.
            This is for training on tiles with less context than the network sees; the weights are the same.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 32,
        dims: int = 3,
        batch_norm: bool = True,
        padded: bool = False,
    ) -> None:
        super().__init__()
        self.analysis = nn.ModuleList()
        before = channels
        for level in range(LEVELS):
            middle, after = width << level, width << (level + 1)
            self.analysis.append(TwoConvolutions(before, middle, after, dims, batch_norm, padded))
            before = after
        self.pool = MAX_POOL[dims](kernel_size=2, stride=2)
        self.up = nn.ModuleList()
        self.synthesis = nn.ModuleList()
        for level in reversed(range(LEVELS - 1)):
            shortcut = width << (level + 1)
            self.up.append(UP_CONVOLUTION[dims](before, before))
            padded_here = padded and level == COARSEST_SYNTHESIS
            self.synthesis.append(TwoConvolutions(before + shortcut, shortcut, shortcut, dims, batch_norm, padded_here))
            before = shortcut
        self.classify = CONVOLUTION[dims](before, classes, kernel_size=1)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits of a tile.

        Args:
            image: (N, C, X, Y, Z), or (N, C, X, Y) in 2-D; valid sizes, see ``TileSizes``.

        Returns:
            (N, classes, *spatial), each axis 88 voxels shorter than the image's; 12 if the network is padded.

        Raises:
            InputError: a size that doesn't pass all poolings evenly.
        """
        shortcuts: list[Tensor] = []
        features = self.analysis[0](image)
        for convolutions in self.analysis[1:]:
            shortcuts.append(features)
            features = convolutions(self.pool(even(features)))
        for up, convolutions in zip(self.up, self.synthesis, strict=True):
            features = up(features)
            shortcut = centre_crop(shortcuts.pop(), features.shape[2:])
            features = convolutions(torch.cat([features, shortcut], dim=1))
        logits: Tensor = self.classify(features)
        return logits


def even(features: Tensor) -> Tensor:
    """Return the features (N, C, *spatial); refuse sizes that a pooling by two would cut.

    Raises:
        InputError: an odd size.
    """
    sizes: Sequence[int] = features.shape[2:]
    if any(size % 2 for size in sizes):
        raise InputError(f"tile: features of {tuple(sizes)} can't be pooled by two evenly; take valid input sizes")
    return features


def initialise(module: nn.Module) -> None:
    """Draw weights such that features keep unit variance through ReLUs (the u-net's initialisation, He et al. 2015)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # With stride 2 each output voxel sees one weight per input channel. All voxels that come from one feature start
        # with the same weight: otherwise, regions unlike those seen in training keep a lattice of dots.
        one = module.weight.flatten(2)[..., :1].detach()
        nn.init.normal_(one, std=module.in_channels**-0.5)
        with torch.no_grad():
            module.weight.flatten(2).copy_(one.expand(-1, -1, module.weight[0, 0].numel()))
