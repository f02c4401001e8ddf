"""How much memory reading a volume may take: what is free, and what is allowed for a file that a client uploads."""

from collections.abc import Iterator
from contextlib import contextmanager

from lib.core.device.memory import free_memory
from lib.core.errors import InputError

from .source import VolumeSource


@contextmanager
def memory_for(source: VolumeSource, limit: int | None = None) -> Iterator[None]:
    """Refuse a volume that is too large before it is read, and also if memory runs out while it is read.

    Args:
        source: the volume.
        limit: bytes that reading it may take, all told; None for what is free.

    Raises:
        InputError: says how much it needs, and what to do.
    """
    geometry, free = source.geometry, free_memory()
    needed = geometry.nbytes + source.working_memory()
    if limit is not None and limit < free:
        allowed, what = limit, "allowed for an uploaded file; start the server with a larger --conf upload"
    else:
        allowed, what = free, "free; close other programs, use a computer with more memory"
    too_large = (
        f"{geometry.name}: the volume (shape {geometry.shape}, {geometry.channels} channels of {geometry.dtype}) needs "
        f"{needed / 1e9:.1f} GB of memory to be read, and {allowed / 1e9:.1f} GB are {what}, or make the volume "
        "smaller, e.g. with 3D Slicer's Crop Volume"
    )
    if needed > allowed:
        raise InputError(too_large)
    try:
        yield
    except MemoryError as error:
        raise InputError(too_large) from error
