"""The machine that the server runs on."""

from pathlib import Path

import psutil
import torch

from ..core.machine import Machine, default_device

SHARE = 0.6
"""Of the free memory, what is used: other programs need some, and estimates are rough."""

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where Linux tells a container's limit and what of it is used (versions 2 and 1)."""


def this_machine(memory: int | None) -> Machine:
    """Return what to compute on: the GPU if there is one.

    Args:
        memory: bytes that may be used, of the device's memory; None: measured anew, by what is free now.
    """
    cpu = Machine("cpu", memory or int(SHARE * free_memory()))
    if default_device() == "cpu":
        return cpu
    return Machine("cuda", memory or int(SHARE * torch.cuda.mem_get_info()[0]), instead=cpu)


def free_memory() -> int:
    """Return the bytes that are free, on this computer and in the container that the server may run in."""
    free = int(psutil.virtual_memory().available)
    for limit, used in CGROUPS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return max(free, 0)
