"""The machine that the server runs on."""

import torch

from ..core.machine import Machine, default_device
from ..core.memory import free_memory

SHARE = 0.6
"""Of the free memory, what is used: other programs need some, and estimates are rough."""


def this_machine(memory: int | None) -> Machine:
    """Return what to compute on: the GPU if there is one.

    Args:
        memory: bytes that may be used, of the device's memory; None: measured anew, by what is free now.
    """
    cpu = Machine("cpu", memory or int(SHARE * free_memory()))
    if default_device() == "cpu":
        return cpu
    return Machine("cuda", memory or int(SHARE * torch.cuda.mem_get_info()[0]), instead=cpu)
