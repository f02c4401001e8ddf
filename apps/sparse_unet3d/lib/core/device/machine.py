"""The device to compute on, and its memory."""

import functools
import shutil
from dataclasses import dataclass, replace

import torch
from torch import nn


@dataclass(frozen=True)
class Machine:
    """A device, and how much of its memory one computation may take.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        memory: limit in bytes.
        fallback: what to use if the device can't compute something: the CPU, for a GPU.
    """

    device: str
    memory: int
    fallback: "Machine | None" = None

    def within(self, memory: int) -> "Machine":
        """Return the same machine with at most so many bytes of memory."""
        return replace(self, memory=min(self.memory, memory))

    def with_half(self) -> "Machine":
        """Return the same machine with half the memory."""
        return replace(self, memory=self.memory // 2)


def default_device() -> str:
    """Return the fastest device that can train: ``cuda`` (NVIDIA), ``mps`` (Apple) or ``cpu``."""
    return _device_and_reason()[0]


def describe_device() -> str:
    """Describe, for a person, the device and why it isn't a faster one."""
    return _device_and_reason()[1]


@functools.cache
def _device_and_reason() -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", f"computing on the GPU {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        try:
            _try_training("mps")
        except (NotImplementedError, RuntimeError) as error:
            return "cpu", f"computing on the CPU: torch can't train on Apple's GPU ({error})"
        return "mps", "computing on Apple's GPU"
    if shutil.which("nvidia-smi") is None:
        return "cpu", "computing on the CPU: no NVIDIA or Apple GPU was found"
    if torch.version.cuda is None:
        return "cpu", (
            f"computing on the CPU: there is an NVIDIA GPU, but this torch ({torch.__version__}) is a CPU build; "
            "docs/install.md says how to install the CUDA one"
        )
    return "cpu", (
        f"computing on the CPU: there is an NVIDIA GPU, but torch {torch.__version__} can't use it; its driver may be "
        f"older than CUDA {torch.version.cuda} needs"
    )


def _try_training(device: str) -> None:
    """Run each kind of layer of the network forward and backward once.

    Raises:
        NotImplementedError, RuntimeError: the device lacks a layer.
    """
    layers = nn.Sequential(
        nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.ReLU(), nn.MaxPool3d(2, 2), nn.ConvTranspose3d(2, 2, 2, 2, bias=False)
    ).to(device)
    loss = nn.functional.cross_entropy(
        layers(torch.rand(1, 1, 6, 6, 6, device=device)), torch.zeros(1, 4, 4, 4, dtype=torch.long, device=device)
    )
    loss.backward()  # type: ignore[no-untyped-call]
    loss.item()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory was short. torch has several messages for that."""
    if isinstance(error, MemoryError):
        return True
    # The last of these is oneDNN's.
    words = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "could not create a primitive",
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
