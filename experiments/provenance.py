"""Which machine and which commit made a result."""

import functools
import platform
import subprocess

import torch

from . import PROJECT


def machine_name(device: str) -> str:
    """Describe this machine's ``cpu`` or ``cuda`` device for records."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {instructions}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


@functools.cache
def commit() -> str:
    """Return the project's commit, with a + if its code was changed since; ``unknown`` without git."""
    try:
        changed = _git("status", "--porcelain", "--", "apps", "experiments/*.py")
        return _git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()
