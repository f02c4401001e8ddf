"""A U-Net with residual blocks, and deep supervision in training: the second architecture.

Residual blocks add each block's input to its output (He et al. 2016). Deep supervision classifies the features of the
coarser steps of the synthesis path too, so that their layers get gradients of their own. It is active only in training.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .architecture import Architecture
from .crop import centre_crop
from .unet import BATCH_NORM, COARSEST_SYNTHESIS, CONVOLUTION, LEVELS, MAX_POOL, UP_CONVOLUTION, even, initialise


class ResidualBlock(nn.Module):
    """Two 3×3×3 convolutions with batch normalisation (if wanted), added to the cropped input, then ReLU."""

    def __init__(self, channels: int, out: int, dims: int, batch_norm: bool, padded: bool = False) -> None:
        super().__init__()

        def normalise() -> nn.Module:
            norm: nn.Module = BATCH_NORM[dims](out) if batch_norm else nn.Identity()
            return norm

        convolution, padding = CONVOLUTION[dims], int(padded)
        self.convolutions = nn.Sequential(
            convolution(channels, out, kernel_size=3, padding=padding),
            normalise(),
            nn.ReLU(inplace=True),
            convolution(out, out, kernel_size=3, padding=padding),
            normalise(),
        )
        self.shortcut = convolution(channels, out, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn (N, channels, *spatial) into (N, out, *spatial), 4 voxels shorter along each axis unless padded."""
        changed: Tensor = self.convolutions(features)
        return functional.relu(changed + self.shortcut(centre_crop(features, changed.shape[2:])))


class ResidualUNet(nn.Module):
    """The U-Net's paths of four resolution steps, each step a residual block.

    Args:
        channels: channels of the image.
        classes: channels of the output.
        width: half of the feature maps of the first step, as in ``UNet``.
        dims: 3, or 2 for the network of slices.
        batch_norm: normalise after each convolution.
        padded: pad convolutions with zeros, as in ``UNet``.
    """

    def __init__(
        self, channels: int, classes: int, width: int, dims: int = 3, batch_norm: bool = True, padded: bool = False
    ) -> None:
        super().__init__()
        maps = [width << (level + 1) for level in range(LEVELS)]
        self.analysis = nn.ModuleList(
            ResidualBlock(before, after, dims, batch_norm, padded)
            for before, after in zip([channels, *maps], maps, strict=False)
        )
        self.pool = MAX_POOL[dims](kernel_size=2, stride=2)
        self.up, self.synthesis, self.classify = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(LEVELS - 1)):
            below, own = maps[level + 1], maps[level]
            self.up.append(UP_CONVOLUTION[dims](below, below))
            padded_here = padded and level == COARSEST_SYNTHESIS
            self.synthesis.append(ResidualBlock(below + own, own, dims, batch_norm, padded_here))
            self.classify.append(CONVOLUTION[dims](own, classes, kernel_size=1))
        self.apply(initialise)

    def forward(self, image: Tensor) -> Any:
        """Compute the logits of a tile.

        Args:
            image: (N, C, *spatial) of valid sizes.

        Returns:
            (N, classes, *output); in training a list of such logits, those of the finest resolution step first, those
            of coarser steps enlarged to the same grid.

        Raises:
            InputError: a size that doesn't pass all poolings evenly.
        """
        shortcuts: list[Tensor] = []
        features = self.analysis[0](image)
        for block in self.analysis[1:]:
            shortcuts.append(features)
            features = block(self.pool(even(features)))
        steps: list[Tensor] = []
        for up, block in zip(self.up, self.synthesis, strict=True):
            features = up(features)
            features = block(torch.cat([features, centre_crop(shortcuts.pop(), features.shape[2:])], dim=1))
            steps.insert(0, features)
        if not self.training:
            return self.classify[-1](steps[0])
        logits = [classify(step) for classify, step in zip(reversed(self.classify), steps, strict=True)]
        return [
            logits[0],
            *(_enlarged(coarse, 2**level, logits[0]) for level, coarse in enumerate(logits[1:], start=1)),
        ]


def _enlarged(coarse: Tensor, factor: int, fine: Tensor) -> Tensor:
    """Repeat the voxels of a coarser step's logits, and cut out the part on which the finest step's lie."""
    return centre_crop(functional.interpolate(coarse, scale_factor=factor, mode="nearest"), fine.shape[2:])


class Residual(Architecture):
    """Residual blocks and deep supervision."""

    name = "residual"

    def build(
        self, channels: int, classes: int, width: int, dims: int = 3, batch_norm: bool = True, padded: bool = False
    ) -> nn.Module:
        return ResidualUNet(channels, classes, width, dims, batch_norm, padded)
