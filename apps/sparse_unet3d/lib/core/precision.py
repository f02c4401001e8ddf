"""Whether to compute in half precision: where it is faster, measured, and says the same."""

import functools
import time

import numpy as np
import torch
from torch import Tensor

from .inference import predict_labels
from .network import UNet
from .slabs import SlabNetwork, laid_out
from .tiles import LATTICE, SMALLEST

MOST_CHANGED = 0.005
"""Share of the voxels that may get another label by half precision."""

PROBE = 2 * LATTICE + 4
"""Voxels along each axis of the part on which it is tried."""


def choose_precision(network: UNet, image: Tensor, device: str) -> torch.dtype:
    """Choose the floating point format for segmenting, by a short measurement on the middle of an image.

    Args:
        network: with frozen statistics, on ``device``.
        image: (C, *spatial) float32 in 0 … 1.
        device: ``cpu`` or ``cuda``.

    Returns:
        bfloat16 if it is faster than float32 there and at most 0.5 % of the labels differ, else float32.
    """
    for axis, length in enumerate(image.shape[1:], start=1):
        size = min(length, PROBE)
        image = image.narrow(axis, (length - size) // 2, size)
    tile = (SMALLEST + 2 * LATTICE,) * (image.ndim - 1)
    labels, seconds = {}, {}
    # Whichever comes first is slower by what happens once; float32 is the one to be in doubt for.
    for dtype in (torch.bfloat16, torch.float32):
        evaluated = SlabNetwork(network, dtype)
        began = time.monotonic()
        labels[dtype] = predict_labels(evaluated, image, tile, device)
        seconds[dtype] = time.monotonic() - began
    changed = float(np.mean(labels[torch.bfloat16] != labels[torch.float32]))
    is_faster = seconds[torch.bfloat16] < seconds[torch.float32]
    return torch.bfloat16 if is_faster and changed <= MOST_CHANGED else torch.float32


@functools.cache
def choose_training_precision(channels: int, classes: int, width: int, dims: int, device: str) -> torch.dtype:
    """Choose the floating point format for a training step's features, by a short measurement; weights stay float32.

    Measured once in a process, so that a run that is continued in it goes on as it began.

    Returns:
        bfloat16 if a step is faster in it than in float32, else float32.
    """
    layout = torch.channels_last_3d if dims == 3 else torch.channels_last
    network = UNet(channels, classes, width, dims).to(device, memory_format=layout)  # type: ignore[call-overload]
    tile = laid_out(torch.rand(1, channels, *(SMALLEST,) * dims, device=device))
    seconds = {}
    for dtype in (torch.bfloat16, torch.float32):
        # The first step is slower by what happens once.
        for _ in range(2):
            began = time.monotonic()
            with half_precision(device, dtype):
                logits = network(tile)
            logits.float().sum().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[dtype] = time.monotonic() - began
    return min(seconds, key=seconds.__getitem__)


def half_precision(device: str, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which a training step's forward pass computes in ``dtype``, if that isn't float32."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)
