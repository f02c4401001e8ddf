"""Evaluate the U-Net in slabs of a few rows, with frozen statistics. Memory doesn't grow with a volume's length.

Along the first spatial axis, each layer computes all rows that its input allows, and keeps the input rows that the next
slab needs. No row is computed twice, and no border is wasted along that axis. Only features that a later shortcut needs
are kept. The result is that of one pass over the whole input (to rounding).
"""

import copy
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib.core.device.precision import onednn_convolves

from .crop import channels_last, layout_of
from .evaluator import RESERVE
from .mirroring import Image, cut
from .repetition import cropped, extended, given_shape
from .tile_sizes import TileSizes, crops, shrinkage
from .unet import UNet

THICKNESS = 16
"""Rows of an input slab. Thicker slabs were not faster on CPUs, and take more memory."""

_ROWS = 2
"""The tensors' axis along which slabs follow each other."""


class Slabs:
    """Runs a U-Net over a tile slab by slab; an ``Evaluator``.

    It holds a copy of the network: batch normalisation folded into the convolutions, channels last in memory.
    """

    def __init__(self, network: UNet, tiles: TileSizes, dtype: torch.dtype = torch.float32) -> None:
        """Copy a network.

        Args:
            network: in evaluation mode; it normalises by the statistics kept in it, if at all.
            tiles: the network's tile sizes.
            dtype: floating point format to compute in; logits are float32 anyway.
        """
        self.tiles, self.dtype = tiles, dtype
        self.device = network.classify.weight.device
        self._analysis = [self._folded(step) for step in network.analysis]
        self._synthesis = [self._folded(step) for step in network.synthesis]
        self._up = [self._placed(up) for up in network.up]
        self._classify = self._placed(network.classify)
        self._pool = network.pool
        self._crops = crops(self._analysis, self._synthesis)

    def _folded(self, step: Any) -> list[Any]:
        """Return the convolutions of a resolution step, each with the normalisation that follows it."""
        return [
            self._placed(fuse_conv_bn_eval(layer, following) if isinstance(following, _BatchNorm) else layer)
            for layer, following in itertools.pairwise(step)
            if isinstance(layer, nn.Conv2d | nn.Conv3d)
        ]

    def _placed(self, layer: Any) -> Any:
        return copy.deepcopy(layer).to(self.dtype, memory_format=layout_of(layer.weight)).requires_grad_(False)

    def evaluate(self, image: Image, origin: Sequence[int], tile: Sequence[int]) -> Iterator[Tensor]:
        """Compute the logits of one tile, slab by slab; see ``Evaluator``."""
        first, *across = (start - self.tiles.context for start in origin)
        given = given_shape(image.shape[1:], tile, self.tiles)[1:]
        rows = (
            range(start, min(start + THICKNESS, first + tile[0])) for start in range(first, first + tile[0], THICKNESS)
        )
        slabs = (cut(image, (slab.start, *across), (len(slab), *given), self.tiles).to(self.device) for slab in rows)
        for logits in self.run(slabs, tile[1:]):
            yield logits[0]

    @torch.inference_mode()
    def run(self, slabs: Iterable[Tensor], across: Sequence[int]) -> Iterator[Tensor]:
        """Run the network over an input that comes in slabs.

        Args:
            slabs: (1, C, rows, *given), together an input of valid sizes. Each may have any number of rows.
            across: valid input sizes along all axes but the first. Along an axis on which slabs are shorter, they are
                one period of an input that repeats itself, a multiple of the lattice.

        Yields:
            (1, classes, rows, *output) float32, logits; together those of the whole input.
        """
        sizes = _sizes(across, self._analysis)
        shortcuts = [
            _Shortcut(crop, [size - 2 * crop for size in own]) for crop, own in zip(self._crops, sizes, strict=False)
        ]
        analysis = [[_Convolution(layer) for layer in step] for step in self._analysis]
        pools = [_Pooling(self._pool) for _ in shortcuts]
        synthesis = [[_Convolution(layer) for layer in step] for step in self._synthesis]
        for slab in slabs:
            repeats = [given < wanted for given, wanted in zip(slab.shape[_ROWS + 1 :], across, strict=True)]
            features: Tensor | None = channels_last(slab.to(self.dtype))
            for level, step in enumerate(analysis):
                if level:
                    features = pools[level - 1](features)
                if features is not None:
                    lost = shrinkage(self._analysis[level])
                    features = extended(features, [0, *(lost * repeat for repeat in repeats)])
                features = _through(step, features)
                if level < len(shortcuts):
                    shortcuts[level].keep(features)
            if features is not None:
                features = cropped(features, [0] * (1 + len(across)), [features.shape[_ROWS], *sizes[-1]])
            for up, step, shortcut in zip(self._up, synthesis, reversed(shortcuts), strict=True):
                if features is not None:
                    features = shortcut.joined_to(up(features))
                features = _through(step, features)
            if features is not None:
                yield self._classify(features).float()

    def peak_memory(self, tile: Sequence[int]) -> int:
        """Estimate the peak memory of a tile of these input sizes in bytes; the first size doesn't matter."""
        waiting, computing = 0, 0
        across, thickness = list(tile[1:]), THICKNESS
        for level, step in enumerate(self._analysis):
            first, second = step
            features = first.in_channels + first.out_channels + second.out_channels
            computing = max(computing, 2 * features * (thickness + 2) * math.prod(across))
            lost = shrinkage(step)
            if level < len(self._crops):
                taken = math.prod(size - lost - 2 * self._crops[level] for size in across)
                # The synthesis path lags behind by the cropped rows and two slabs.
                waiting += second.out_channels * (self._crops[level] + 2 * thickness) * taken
                # Channels from the coarser step and from the shortcut, both before and after concatenation.
                computing = max(computing, 2 * 3 * second.out_channels * 2 * thickness * taken)
            across, thickness = [(size - lost) // 2 for size in across], max(2, thickness // 2)
        return RESERVE + (waiting + computing) * self.dtype.itemsize


def _sizes(across: Sequence[int], analysis: Sequence[Sequence[Any]]) -> list[list[int]]:
    """Return the sizes of the features of each resolution step of the analysis path, given those of the input."""
    sizes = [[size - shrinkage(analysis[0]) for size in across]]
    for step in analysis[1:]:
        sizes.append([size // 2 - shrinkage(step) for size in sizes[-1]])
    return sizes


class _Convolution:
    """A valid 3×3×3 convolution and ReLU."""

    def __init__(self, layer: Any) -> None:
        is_faster = layer.weight.device.type == "cpu" and onednn_convolves(layer.weight.dtype)
        self.layer = _by_onednn(layer) if is_faster else layer
        self.carried: list[Tensor] = []

    def __call__(self, slab: Tensor) -> Tensor | None:
        rows = torch.cat([*self.carried, slab], dim=_ROWS)
        self.carried = [rows[:, :, -2:].clone()]
        return self.layer(rows).relu_() if rows.shape[_ROWS] > 2 else None


def _by_onednn(layer: Any) -> Callable[[Tensor], Tensor]:
    """Return a convolution by oneDNN. torch itself often chooses an implementation that was 2 to 12 times slower."""
    return lambda rows: torch.mkldnn_convolution(
        rows, layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups
    )


class _Pooling:
    """2×2×2 max pooling."""

    def __init__(self, pool: nn.Module) -> None:
        self.pool = pool
        self.carried: list[Tensor] = []

    def __call__(self, slab: Tensor | None) -> Tensor | None:
        if slab is None:
            return None
        rows = torch.cat([*self.carried, slab], dim=_ROWS) if self.carried else slab
        even = rows.shape[_ROWS] // 2 * 2
        self.carried = [rows[:, :, even:].clone()] if even < rows.shape[_ROWS] else []
        return self.pool(rows[:, :, :even]) if even else None


class _Shortcut:
    """Features between analysis and synthesis path: cropped, and kept until they are needed.

    Args:
        crop: voxels cut off at the beginning of each axis.
        across: sizes that are kept along all axes but the first.
    """

    def __init__(self, crop: int, across: Sequence[int]) -> None:
        self.crop, self.across = crop, across
        self.dropped = 0
        self.slabs: deque[Tensor] = deque()

    def keep(self, slab: Tensor | None) -> None:
        if slab is None:
            return
        drop = min(self.crop - self.dropped, slab.shape[_ROWS])
        self.dropped += drop
        if drop < slab.shape[_ROWS]:
            rows = slab[:, :, drop:]
            kept = cropped(rows, [0, *(self.crop for _ in self.across)], [rows.shape[_ROWS], *self.across])
            self.slabs.append(kept)

    def joined_to(self, features: Tensor) -> Tensor:
        """Return the features, with the shortcut's features for the same rows appended as channels."""
        wanted, due = features.shape[_ROWS], list[Tensor]()
        while wanted:
            slab = self.slabs.popleft()
            if slab.shape[_ROWS] > wanted:
                self.slabs.appendleft(slab[:, :, wanted:])
            due.append(slab[:, :, :wanted])
            wanted -= due[-1].shape[_ROWS]
        return torch.cat([features, torch.cat(due, dim=_ROWS) if len(due) > 1 else due[0]], dim=1)


def _through(step: Iterable[_Convolution], features: Tensor | None) -> Tensor | None:
    for convolution in step:
        if features is not None:
            features = convolution(features)
    return features
