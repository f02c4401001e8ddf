"""Tile arithmetic: which input sizes are valid, what comes out, how tiles cover a volume (section 2, figure 2).

All of it follows from the network's layers.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lib.core.errors import InputError


@dataclass(frozen=True)
class TileSizes:
    """The sizes of the tiles that a network takes.

    Every convolution is valid (unpadded), so the output is smaller than the input by the context on each side. Poolings
    must divide evenly, so valid input sizes differ by multiples of the lattice. Because of the poolings, the network
    commutes with shifts by multiples of the lattice only: tiles whose output starts on that lattice, in a frame fixed
    to the volume, compute exactly the same voxels as one pass over the whole volume.

    For the paper's network, the attributes are 44, 6, 8 and 92.

    Attributes:
        context: voxels that the network cuts off on each side of a tile.
        padded_context: the same if the network is padded, see ``Architecture.build``.
        lattice: distance in voxels between admissible tile origins, and between valid sizes.
        smallest: smallest valid input size along an axis.
    """

    context: int
    padded_context: int
    lattice: int
    smallest: int

    @classmethod
    def of(cls, network: nn.Module, padded: nn.Module) -> "TileSizes":
        """Derive the sizes from the layers of a network, and of the same network, padded."""
        (*_, (_, context, _)), (*_, (_, padded_context, _)) = layers(network), layers(padded)
        lattice = max(size for _, _, size in layers(network))
        smallest = next(size for size in itertools.count(1) if _passes(network, size))
        return cls(int(context), int(padded_context), lattice, smallest)

    def is_valid(self, size: int) -> bool:
        """Return whether an input of ``size`` voxels along an axis passes all poolings evenly."""
        return size >= self.smallest and size % self.lattice == self.smallest % self.lattice

    def next_valid(self, size: int) -> int:
        """Return the smallest valid input size that is at least ``size``."""
        return max(self.smallest, size + (self.smallest - size) % self.lattice)

    def output_size(self, size: int) -> int:
        """Return the output size along an axis for a valid input size.

        Raises:
            InputError: ``size`` is not valid; the message names the nearest sizes that are.
        """
        if not self.is_valid(size):
            above = self.next_valid(size)
            nearest = str(above) if above == self.smallest else f"{above - self.lattice} or {above}"
            raise InputError(f"tile: {size} voxels along an axis don't pass all poolings evenly; take {nearest}")
        return size - 2 * self.context

    def input_size(self, output: int) -> int:
        """Return the smallest valid input size whose output is at least ``output`` voxels."""
        return self.next_valid(output + 2 * self.context)

    def output_shape(self, tile: Sequence[int]) -> tuple[int, ...]:
        """Return ``output_size`` for each axis of an input tile."""
        return tuple(self.output_size(size) for size in tile)

    def covering(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the smallest tile whose output covers a whole volume of this shape."""
        return tuple(self.input_size(length) for length in shape)

    def no_larger_than_needed(self, tile: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
        """Return the tile, cut down along each axis to the size that covers a volume of this shape."""
        return tuple(map(min, tile, self.covering(shape)))

    def axis_origins(self, length: int, size: int) -> list[int]:
        """Return where the outputs of tiles start along an axis, so that together they cover ``0 … length - 1``.

        Args:
            length: voxels of the volume along the axis.
            size: valid input size of the tile along it.

        Raises:
            InputError: ``size`` is not valid, or its output is smaller than the lattice and would leave gaps.
        """
        output = self.output_size(size)
        if length <= output:
            return [0]
        step = output - output % self.lattice
        if step == 0:
            raise InputError(
                f"tile: an input of {size} voxels has an output of {output}, less than the lattice of {self.lattice}; "
                f"take at least {self.next_valid(size + 1)}"
            )
        return list(range(0, length - output + step, step))


def layers(network: nn.Module) -> Iterator[tuple[nn.Module, float, int]]:
    """Follow the layers of a network along one axis.

    Args:
        network: ``network.analysis`` and ``network.synthesis`` list its resolution steps, in the order in which data
            flows. A pooling by two lies between steps of the analysis path, an up-convolution by two before each step
            of the synthesis path. The convolutions of a step follow one another; their kernels have the same length
            along all axes, without stride or dilation.

    Yields:
        Each layer of these steps and where its output lies: the first feature begins ``start`` voxels after the first
        voxel of the tile, and each feature stands for ``size`` voxels.
    """
    steps: list[nn.Module] = [*network.analysis, *network.synthesis]  # type: ignore[misc]
    coarsest = len(network.analysis) - 1  # type: ignore[arg-type]
    start = 0.0
    for level, step in zip([*range(coarsest + 1), *reversed(range(coarsest))], steps, strict=True):
        for layer in step.modules():
            start += _lost(layer) * (1 << level) / 2
            yield layer, start, 1 << level


def shrinkage(step: Iterable[nn.Module]) -> int:
    """Return the number of features that the layers of a resolution step cut off along an axis, both ends together."""
    return sum(map(_lost, step))


def crops(analysis: Sequence[Iterable[nn.Module]], synthesis: Sequence[Iterable[nn.Module]]) -> list[int]:
    """Return the number of features to crop on each side of the shortcuts, for the synthesis path.

    Args:
        analysis: the layers of each resolution step, finest first.
        synthesis: the same, coarsest first.

    Returns:
        One number for each shortcut connection, finest first.
    """
    found = [shrinkage(analysis[-1])]
    for down, up in zip(reversed(analysis[1:-1]), synthesis, strict=False):
        found.insert(0, shrinkage(down) + 2 * found[0] + shrinkage(up))
    return found


def _lost(layer: nn.Module) -> int:
    """Return the number of features that a layer cuts off along an axis, both ends together."""
    if not isinstance(layer, nn.Conv2d | nn.Conv3d):
        return 0
    return int(layer.kernel_size[0]) - 1 - 2 * int(layer.padding[0])


def _passes(network: nn.Module, size: int) -> bool:
    """Return whether an input of this size passes all poolings evenly and leaves an output."""
    steps: list[nn.Module] = [*network.analysis, *network.synthesis]  # type: ignore[misc]
    poolings = len(network.analysis) - 1  # type: ignore[arg-type]
    for number, step in enumerate(steps):
        size -= shrinkage(step.modules())
        if size < 1 or (number < poolings and size % 2):
            return False
        size = size // 2 if number < poolings else 2 * size
    return True
