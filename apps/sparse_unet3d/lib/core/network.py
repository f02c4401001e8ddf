"""The 3-D U-Net (section 2, figure 2), and with the same code its 2-D counterpart."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_UP_CONVOLUTION: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX_POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


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

    Channels double before each pooling, which avoids bottlenecks. Takes (N, C, X, Y, Z) with sizes valid in the sense
    of ``tiles`` and returns logits (N, classes, X - 88, Y - 88, Z - 88); 2-D without the last axis.

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

    def forward(self, image: Tensor) -> Tensor:
        features = image
        shortcuts: list[Tensor] = []
        for level, convolutions in enumerate(self.analysis):
            if level:
                features = self.pool(features)
            features = convolutions(features)
            shortcuts.append(features)
        shortcuts.pop()
        for up, convolutions in zip(self.up, self.synthesis, strict=True):
            features = up(features)
            features = convolutions(torch.cat([features, _crop(shortcuts.pop(), features)], dim=1))
        logits: Tensor = self.classify(features)
        return logits


def _crop(shortcut: Tensor, like: Tensor) -> Tensor:
    """Cut the central part of ``shortcut`` that has the spatial size of ``like``."""
    excess = [(before - after) // 2 for before, after in zip(shortcut.shape[2:], like.shape[2:], strict=True)]
    # Not by slices: their gradients come back in another layout, which made a training step a fifth slower on CPUs.
    return functional.pad(shortcut, [-size for size in reversed(excess) for _ in range(2)])


def _initialise(module: nn.Module) -> None:
    """Draw weights such that features keep unit variance through ReLUs (the u-net's initialisation, He et al. 2015)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        # With stride 2 each output voxel sees one weight per input channel.
        nn.init.normal_(module.weight, std=module.in_channels**-0.5)
