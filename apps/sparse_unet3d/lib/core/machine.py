"""What to compute on."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Machine:
    """A device and what one computation may take of its memory.

    Attributes:
        device: ``cpu`` or ``cuda``.
        memory: bytes.
        instead: what to go on with where even the smallest tiles don't fit: the CPU, beside a GPU.
    """

    device: str
    memory: int
    instead: "Machine | None" = None

    def with_half(self) -> "Machine":
        """Return the same with half the memory."""
        return replace(self, memory=self.memory // 2)


def default_device() -> str:
    """Return ``cuda`` where there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory was short, which torch says in several ways."""
    if isinstance(error, MemoryError):
        return True
    # The last one is what oneDNN says.
    words = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "could not create a primitive",
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
