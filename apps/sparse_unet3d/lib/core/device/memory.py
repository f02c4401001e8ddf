"""How much memory is free, on this computer and in the container that the process may run in."""

from pathlib import Path

import psutil

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Where Linux tells a container's limit and what of it is used (versions 2 and 1)."""


def free_memory() -> int:
    """Return the bytes that are free."""
    free = int(psutil.virtual_memory().available)
    for limit, used in CGROUPS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return max(free, 0)
