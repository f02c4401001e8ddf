"""Features of an input that repeats itself: held once, and repeated where a layer needs more of them.

A volume mirrored at its borders repeats itself, and so does all that a network computes from it.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def extended(features: Tensor, rows: Sequence[int]) -> Tensor:
    """Append to features (N, C, *spatial) as many rows along each spatial axis, repeating them from the first on."""
    return cropped(features, [0] * len(rows), [size + n for size, n in zip(features.shape[2:], rows, strict=True)])


def cropped(features: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Cut a box out of features (N, C, *spatial); where it reaches beyond their end, they repeat themselves."""
    if not any(starts) and tuple(sizes) == features.shape[2:]:
        return features
    box: Tensor = _Box.apply(features, tuple(starts), tuple(sizes))  # type: ignore[no-untyped-call]
    return box


class _Box(torch.autograd.Function):
    """``cropped``, all channels last in memory.

    Slices and concatenations hand gradients back in another layout: a training step took a sixth longer on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, starts: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.pieces = features.shape, _pieces(features.shape[2:], starts, sizes)
        box = _empty((*features.shape[:2], *sizes), features)
        for source, target in ctx.pieces:
            box[target] = features[source]
        return box

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        result = _empty(ctx.shape, gradient).zero_()
        for source, target in ctx.pieces:
            result[source] += gradient[target]
        return result, None, None


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    layout = torch.channels_last_3d if len(shape) == 5 else torch.channels_last
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=layout)


def _pieces(
    lengths: Sequence[int], starts: Sequence[int], sizes: Sequence[int]
) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Return what of repeated features lies where in a box: (source, target) slices without overlap in the box."""
    along: list[list[tuple[slice, slice]]] = []
    for length, start, size in zip(lengths, starts, sizes, strict=True):
        pieces, done = [], 0
        while done < size:
            first = (start + done) % length
            count = min(length - first, size - done)
            pieces.append((slice(first, first + count), slice(done, done + count)))
            done += count
        along.append(pieces)
    return [
        ((..., *(source for source, _ in piece)), (..., *(target for _, target in piece)))
        for piece in itertools.product(*along)
    ]
