"""Grey value augmentation: a smooth random mapping of each channel's intensities (section 3.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

KNOTS = 4
"""Number of points at which the slope of the mapping is drawn."""

ENTRIES = 4096
"""Number of entries of the table that holds a mapping. A value takes the nearest entry."""


@dataclass(frozen=True)
class GreyValueSettings:
    """How strongly grey values are changed.

    Attributes:
        slope_sd: standard deviation of the logarithm of the mapping's slope at each knot.
        offset_sd: standard deviation of the value that 0 is mapped to. Images range over 0 … 1.
    """

    slope_sd: float = 0.3
    offset_sd: float = 0.05


def draw_grey_mapping(
    generator: np.random.Generator, channels: int, settings: GreyValueSettings
) -> NDArray[np.float64]:
    """Draw one strictly rising, smooth mapping per channel.

    Returns:
        (channels, ENTRIES) values that 0 … 1 are mapped to. The slope is the exponential of a cubic spline through
        normal random numbers. It is positive, so that brighter voxels stay brighter.
    """
    knots = np.linspace(0, 1, KNOTS)
    levels = np.linspace(0, 1, ENTRIES)
    tables = np.empty((channels, ENTRIES))
    for channel in range(channels):
        spline = CubicSpline(knots, settings.slope_sd * generator.standard_normal(KNOTS))
        slopes = np.exp(spline(levels))
        rise = np.concatenate([[0.0], np.cumsum((slopes[1:] + slopes[:-1]) / 2) / (ENTRIES - 1)])
        tables[channel] = rise + settings.offset_sd * generator.standard_normal()
    return tables


def apply_grey_mapping(image: Tensor, tables: NDArray[np.float64]) -> Tensor:
    """Map an image's grey values channel by channel.

    Args:
        image: (C, ...) float32 in 0 … 1.
        tables: (C, ENTRIES) from ``draw_grey_mapping``.

    Returns:
        The mapped image, of the same shape.
    """
    result = torch.empty_like(image)
    for channel, table in enumerate(torch.as_tensor(tables, dtype=torch.float32, device=image.device)):
        entries = (image[channel] * (ENTRIES - 1)).round_().clamp_(0, ENTRIES - 1).to(torch.int32)
        torch.index_select(table, 0, entries.flatten(), out=result[channel].view(-1))
    return result
