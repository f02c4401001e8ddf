"""The device to compute on here, and how much memory a computation may take."""

import torch

from .machine import Machine, default_device
from .memory import free_memory

SHARE = 0.6
"""Share of the free memory that is used; other programs need some, and estimates are rough."""

MOST = 6 * 10**9
"""The most bytes to use if no limit is given."""


def this_machine(memory: int | None) -> Machine:
    """Return the GPU if there is one, else the CPU.

    Args:
        memory: bytes of the device's memory that may be used; None: ``SHARE`` of what is free now, at most ``MOST``.
    """
    cpu = Machine("cpu", memory or budget(free_memory()))
    device = default_device()
    if device == "cpu":
        return cpu
    # Apple's GPU computes in the computer's own memory.
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else free_memory()
    return Machine(device, memory or budget(free), fallback=cpu)


def budget(free: int) -> int:
    """Return how many of these free bytes a computation may take."""
    return min(MOST, int(SHARE * free))
