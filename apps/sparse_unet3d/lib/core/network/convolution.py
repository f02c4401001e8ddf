"""Convolutions of the 3-D networks that are fast on processors too.

In float32, torch passes a single sample to oneDNN only if the product of its channels and of its sizes along the first
two axes is large enough. Most features of a training tile are smaller. torch then computes by functions of its own,
which take up to ten times as long, gain little from a second core, and return features in another memory layout
(figures in ``benchmarks/README.md``). The results here are the same, to rounding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv3d_input, conv3d_weight

from lib.core.device.precision import onednn_convolves

from .crop import channels_last

TOO_SMALL_FOR_ONEDNN = 20_480
"""torch passes a sample to oneDNN if channels × X × Y is larger than this."""


class Convolution3d(nn.Conv3d):
    """A 3-D convolution of stride 1, padded with zeros if at all.

    Args:
        channels: channels of the input.
        out: channels of the output.
        kernel_size: along each axis.
        padding: zeros at each end of each axis.
        bias: whether to add one.
    """

    def __init__(self, channels: int, out: int, kernel_size: int, padding: int = 0, bias: bool = True) -> None:
        super().__init__(channels, out, kernel_size, padding=padding, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Turn (N, C, X, Y, Z) into (N, out channels, *spatial)."""
        kernel, padding = self.kernel_size[0], int(self.padding[0])
        # Without neighbours, torch's own convolution is a single matrix product.
        is_slow = kernel > 1 and _is_left_to_torch(features) and onednn_convolves(torch.float32)
        if not is_slow or features.shape[2] + 2 * padding < kernel + 1:
            return super().forward(features)
        found: Tensor = _InHalves.apply(features, self.weight, self.bias, self.padding)  # type: ignore[no-untyped-call]
        return found


class _InHalves(torch.autograd.Function):
    """A convolution of the two halves of a sample as a batch, which torch passes to oneDNN whatever their size.

    The halves along the first axis overlap by what the kernel reaches. If the output has an odd length, they also have
    one plane of it in common.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> Tensor:
        along, *across = padding
        padded = functional.pad(features, (0, 0, 0, 0, along, along))
        reach = weight.shape[2] - 1
        after = padded.shape[2] - reach
        half = (after + 1) // 2
        given = channels_last(torch.cat([padded[:, :, : half + reach], padded[:, :, -half - reach :]]))
        ctx.save_for_backward(given, weight)
        ctx.padding = padding
        first, second = functional.conv3d(given, weight, bias, padding=(0, *across)).chunk(2)
        return torch.cat([first, second[:, :, 2 * half - after :]], dim=2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        given, weight = ctx.saved_tensors
        along, *across = ctx.padding
        after = gradient.shape[2]
        half = (after + 1) // 2
        of_halves = channels_last(torch.cat([gradient[:, :, :half], gradient[:, :, -half:]]))
        of_halves[1, :, : 2 * half - after] = 0
        features = weights = bias = None
        if ctx.needs_input_grad[0]:
            of_given = conv3d_input(given.shape, weight, of_halves, padding=(0, *across))  # type: ignore[no-untyped-call]
            first, second = of_given.chunk(2)
            length = first.shape[2]
            overlap = 2 * length - (after + weight.shape[2] - 1)
            joined = torch.cat([first, second[:, :, overlap:]], dim=2)
            joined[:, :, length - overlap : length] += second[:, :, :overlap]
            features = joined[:, :, along : joined.shape[2] - along]
        if ctx.needs_input_grad[1]:
            weights = conv3d_weight(  # type: ignore[no-untyped-call]
                given, weight.shape, of_halves, padding=(0, *across)
            )
        if ctx.needs_input_grad[2]:
            bias = gradient.sum(dim=(0, 2, 3, 4))
        return features, weights, bias, None


class UpConvolution3d(nn.ConvTranspose3d):
    """An up-convolution by 2×2×2 with stride 2, without bias.

    Args:
        channels: channels of the input.
        out: channels of the output.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, kernel_size=2, stride=2, bias=False)

    def forward(self, features: Tensor, output_size: Any = None) -> Tensor:
        """Turn (N, C, X, Y, Z) into (N, out channels, 2X, 2Y, 2Z)."""
        if not _is_left_to_torch(features):
            return super().forward(features, output_size)
        # No voxel of the output gets values from two voxels, so that a matrix product is all that there is to compute.
        count, channels, *sizes = features.shape
        voxels = features.permute(0, 2, 3, 4, 1).reshape(-1, channels)
        found = (voxels @ self.weight.permute(0, 2, 3, 4, 1).reshape(channels, -1)).view(count, *sizes, 2, 2, 2, -1)
        doubled = [2 * size for size in sizes]
        return found.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(count, *doubled, -1).permute(0, 4, 1, 2, 3)


def _is_left_to_torch(features: Tensor) -> bool:
    """Return whether torch computes a convolution of these features by functions of its own on the CPU."""
    return (
        features.device.type == "cpu"
        and features.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and len(features) == 1
        and features.shape[:4].numel() <= TOO_SMALL_FOR_ONEDNN
    )
