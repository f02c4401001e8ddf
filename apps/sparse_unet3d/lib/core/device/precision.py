"""The floating point format to compute in: asked of the device, never timed, so that it is the same in each run."""

import functools

import torch
from torch.nn import functional

_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Processor features that make bfloat16 faster than float32. Without one of them bfloat16 is emulated."""


def half_precision_of(device: str) -> torch.dtype:
    """Return the format that a device computes in faster than in float32 at a precision that suffices.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        bfloat16 where the device computes in it natively, else float32.
    """
    if device == "cuda":
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_native = device == "cpu" and _processor_has_bfloat16() and onednn_convolves(torch.bfloat16)
    return torch.bfloat16 if is_native else torch.float32


def precision_on(device: str, wanted: torch.dtype) -> torch.dtype:
    """Return ``wanted`` where the device computes in it natively, else float32."""
    return wanted if wanted == half_precision_of(device) else torch.float32


def _processor_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in _NATIVE_BFLOAT16)


@functools.cache
def onednn_convolves(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN convolves in a format on this processor.

    torch has no public question for that: its operator raises where oneDNN can't, which the processor and the
    environment variable ``ONEDNN_MAX_CPU_ISA`` decide.
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
    """Return the context in which a training step's forward pass computes in ``dtype``, if that isn't float32."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)
