"""The floating point format to compute in. It depends on the device alone, so that it is the same in each run."""

import functools

import torch
from torch.nn import functional

_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Processor features with which bfloat16 is faster than float32. Without any of them it is emulated."""


def half_precision_of(device: str) -> torch.dtype:
    """Return the fastest format of a device that is precise enough.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        bfloat16 if the device computes in it natively, else float32.
    """
    if device == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_native = device == "cpu" and _processor_has_bfloat16() and onednn_convolves(torch.bfloat16)
    return torch.bfloat16 if is_native else torch.float32


def precision_on(device: str, wanted: torch.dtype) -> torch.dtype:
    """Return ``wanted`` if the device computes in it natively, else float32."""
    return wanted if wanted == half_precision_of(device) else torch.float32


def _processor_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in _NATIVE_BFLOAT16)


@functools.cache
def onednn_convolves(dtype: torch.dtype) -> bool:
    """Return whether oneDNN convolves in a format on this processor.

    torch has no public function for that, but its operator raises if oneDNN can't. The result depends on the processor
    and on the environment variable ``ONEDNN_MAX_CPU_ISA``.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    image, weight = torch.ones(1, 1, 3, 3, 3, dtype=dtype), torch.ones(1, 1, 3, 3, 3, dtype=dtype)
    try:
        found = torch.mkldnn_convolution(image, weight, None, [0, 0, 0], [1, 1, 1], [1, 1, 1], 1)
    except (AttributeError, RuntimeError):
        return False
    return bool(found == functional.conv3d(image.float(), weight.float()))


def half_precision(device: str, dtype: torch.dtype) -> torch.autocast:
    """Return the context for a training step's forward pass: autocast to bfloat16 if ``dtype`` is that."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)
