"""The device that a request asks for, checked before a process is started for it."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch

from lib.core.device.machine import default_device, describe_device
from lib.core.errors import InputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which a process sees some of the NVIDIA GPUs only."""


def device_environment(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that give a process the device that a request asks for.

    Args:
        request: ``device`` is ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ``gpus`` is ``all``, or numbers of NVIDIA GPUs
            from 0, separated by commas. Each may be missing, or a list whose first item counts.

    Raises:
        InputError: this computer lacks the device.
    """
    chosen = _numbers(_first(request.get("gpus")))
    device = _first(request.get("device"))
    if device not in (None, ""):
        known = default_device()
        match = re.fullmatch(r"cuda(?::(\d{1,3}))?", device) if isinstance(device, str) else None
        if match and known == "cuda":
            if match[1]:
                chosen = [_numbered("device", device, int(match[1]), chosen)]
        elif device == "cpu" and known != "mps":
            chosen = []
        elif device != known:
            raise InputError(
                f"device: {device!r} can't be used, the server is {describe_device()}; give {known!r}, or leave it out"
            )
    if chosen is None:
        return {}
    seen = os.environ.get(VISIBLE)
    names = seen.split(",") if seen else [str(number) for number in range(_count())]
    return {VISIBLE: ",".join(names[number] for number in chosen) or "-1"} if _count() else {}


def training_processes(environment: Mapping[str, str]) -> int:
    """Return how many processes train together: one for each NVIDIA GPU that a job sees, and one without.

    Args:
        environment: what ``device_environment`` has returned for the job.
    """
    if VISIBLE not in environment:
        return max(1, _count())
    return len(environment[VISIBLE].split(","))


def _numbers(gpus: Any) -> list[int] | None:
    """Return the numbers of the GPUs that are asked for; None for all."""
    if gpus in (None, "", "all"):
        return None
    text = str(gpus)
    if isinstance(gpus, bool) or not re.fullmatch(r"\d{1,3}(,\d{1,3}){0,15}", text):
        raise InputError(f"gpus: {gpus!r}; give 'all', or numbers of GPUs from 0, separated by commas")
    return [_numbered("gpus", gpus, int(number), None) for number in text.split(",")]


def _numbered(option: str, value: Any, number: int, among: list[int] | None) -> int:
    """Return a GPU by its number among some GPUs; None: among all."""
    every = list(range(_count())) if among is None else among
    if number >= len(every):
        there = f"only {len(every)} of them can be used" if every else describe_device()
        raise InputError(f"{option}: {value!r} asks for GPU number {number}, counted from 0; {there}; leave it out")
    return every[number]


def _count() -> int:
    return torch.cuda.device_count() if default_device() == "cuda" else 0


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value
