"""Cropping of the shortcut connections' features (section 2)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def centre_crop(features: Tensor, sizes: Sequence[int]) -> Tensor:
    """Cut the middle out of features.

    Args:
        features: (N, C, *spatial).
        sizes: spatial sizes of the middle; each differs from that of the features by an even number.

    Returns:
        (N, C, *sizes), channels last in memory.
    """
    cropped: Tensor = _CentreCrop.apply(features, tuple(sizes))  # type: ignore[no-untyped-call]
    return cropped


class _CentreCrop(torch.autograd.Function):
    """``centre_crop`` with a gradient whose channels are last in memory, too.

    A plain slice returns its gradient in another layout, with which a training step took a sixth longer on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.shape = features.shape
        ctx.box = (..., *_middle(features.shape[2:], sizes))
        return channels_last(features[ctx.box])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout_of(gradient))
        whole.zero_()[ctx.box] = gradient
        return whole, None


def _middle(lengths: Sequence[int], sizes: Sequence[int]) -> list[slice]:
    return [
        slice((length - size) // 2, (length - size) // 2 + size) for length, size in zip(lengths, sizes, strict=True)
    ]


def channels_last(features: Tensor) -> Tensor:
    """Put channels last in memory: measured 1.3 to 1.5 times faster forward on CPUs, in 3-D."""
    return features.contiguous(memory_format=layout_of(features))


def layout_of(features: Tensor) -> torch.memory_format:
    """Return the memory format with channels last, for features or weights."""
    return torch.channels_last_3d if features.ndim == 5 else torch.channels_last
