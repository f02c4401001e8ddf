"""The whole way from an image to its labels as one TorchScript module, which needs nothing but torch.

The steps are those of ``prepare_image``, ``Tiling`` and ``WorkingGrid.back``, in the language that TorchScript knows.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .frozen import FrozenNetwork


class Segmentation(nn.Module):
    """A frozen network with the steps before and after it."""

    spacing: list[float]
    percentiles: list[float]
    shares: list[float]

    def __init__(self, network: FrozenNetwork, facts: dict[str, Any]) -> None:
        """Put a network and its steps together.

        Args:
            network: the network.
            facts: see ``preprocessing``.
        """
        super().__init__()
        self.network = network
        self.channels, self.classes = int(facts["channels"]), len(facts["classes"])
        self.spacing = list(facts["spacing_mm"] or ())
        self.percentiles, self.shares = [at / 100 for at in facts["percentiles"]], list(facts["constant_share"])
        self.sampled = int(facts["sampled_values"])
        self.piece = int(facts["piece"])

    def forward(self, image: Tensor) -> Tensor:
        """Compute class probabilities, a large image piece by piece.

        Args:
            image: (1, C, X, Y, Z) float32 on the working grid, scaled to 0 … 1.

        Returns:
            (1, K + 1, X, Y, Z) float32 in 0 … 1, the background first.
        """
        _, _, x, y, z = image.shape
        found = torch.empty([1, self.classes, x, y, z], dtype=torch.float32, device=image.device)
        side = self.piece
        for i in range(0, x, side):
            for j in range(0, y, side):
                for k in range(0, z, side):
                    first, size = [i, j, k], [min(side, x - i), min(side, y - j), min(side, z - k)]
                    box = self.network(image, torch.tensor(first), torch.tensor(size))
                    found[:, :, i : i + side, j : j + side, k : k + side] = box
        return found

    @torch.jit.export
    def segment(self, image: Tensor, voxel_size: list[float]) -> Tensor:
        """Segment an image.

        Args:
            image: (C, X, Y, Z), integers or finite floats.
            voxel_size: along X, Y, Z in mm.

        Returns:
            (X, Y, Z) uint8: 0 background, 1 … K foreground.
        """
        found = self.forward(self.prepare(image, voxel_size).unsqueeze(0))[0]
        return self.back(found, list(image.shape[1:])).argmax(dim=0).to(torch.uint8)

    @torch.jit.export
    def prepare(self, image: Tensor, voxel_size: list[float]) -> Tensor:
        """Scale an image (C, X, Y, Z) to 0 … 1 and resample it to the working grid, as float32."""
        if image.shape[0] != self.channels:
            raise ValueError("the image has another number of channels than the network")
        working: list[int] = []
        for axis in range(3):
            wanted = self.spacing[axis] if self.spacing else voxel_size[axis]
            # In TorchScript, round and floor return floats.
            working.append(max(1, int(round(image.shape[axis + 1] * voxel_size[axis] / wanted))))  # noqa: RUF046
        return self._resampled(torch.stack([self._scaled(channel) for channel in image]), working, True)

    @torch.jit.export
    def back(self, probabilities: Tensor, shape: list[int]) -> Tensor:
        """Resample probabilities (K + 1, *working) to the image's own grid of this shape."""
        return self._resampled(probabilities, shape, False)

    def _scaled(self, channel: Tensor) -> Tensor:
        count = channel.numel()
        step = (count + self.sampled - 1) // self.sampled
        while math.gcd(step, count) > 1:
            step += 1
        channel = channel.double()
        if not bool(torch.isfinite(channel).all()):
            raise ValueError("the image has values that are no finite numbers")
        sample = channel.reshape(-1)[::step].sort()[0]
        values, counts = torch.unique_consecutive(sample, return_counts=True)
        longest = int(counts.argmax())
        most, share = float(values[longest]), float(counts[longest]) / len(sample)
        rest = sample[sample != most] if self.shares[0] <= share <= self.shares[1] else sample
        low, high = self._range(rest)
        if low == high:
            low, high = self._range(sample)
        elif most < low and low == float(rest[0]):
            low = max(most, low - (high - low) / 2)
        elif most > high and high == float(rest[-1]):
            high = min(most, high + (high - low) / 2)
        if low == high:
            low, high = float(channel.min()), float(channel.max())
        width = high - low if high > low else 1.0
        return ((channel - low) / width).clamp(0, 1).float()

    def _range(self, values: Tensor) -> tuple[float, float]:
        found: list[float] = []
        for share in self.percentiles:
            place = share * (len(values) - 1)
            below = int(math.floor(place))  # noqa: RUF046
            first, second = float(values[below]), float(values[min(below + 1, len(values) - 1)])
            found.append(first + (place - below) * (second - first))
        return found[0], found[1]

    def _resampled(self, image: Tensor, shape: list[int], smooth: bool) -> Tensor:
        """Resample (C, *spatial) to (C, *shape) linearly, smoothed first along axes that get coarser if wanted."""
        for axis in range(3):
            old, new = image.shape[axis + 1], shape[axis]
            if old != new:
                numbers = torch.arange(old, dtype=torch.float64, device=image.device)
                at = (torch.arange(new, dtype=torch.float64, device=image.device) + 0.5) * old / new - 0.5
                weights = (1 - (at.clamp(0, old - 1).unsqueeze(1) - numbers).abs()).clamp(min=0)
                if smooth and old > new:
                    unit = (old / new - 1) / math.sqrt(2)
                    apart = (numbers.unsqueeze(1) - numbers).abs()
                    weights = weights @ (torch.erf((apart + 0.5) / unit) - torch.erf((apart - 0.5) / unit)) / 2
                image = torch.tensordot(image.movedim(axis + 1, -1), weights.to(image.dtype), dims=([3], [1]))
                image = image.movedim(-1, axis + 1)
        return image
