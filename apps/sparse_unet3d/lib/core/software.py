"""Which software is at work: its version, its commit, and the packages that compute."""

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path

VERSION = "0.1.0"

PACKAGES = ("torch", "monai", "numpy")


@functools.cache
def software() -> dict[str, str]:
    """Return versions by name: of this software, its ``commit``, of Python, and of ``PACKAGES``."""
    return {
        "sparse_unet3d": VERSION,
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def _commit() -> str:
    """Return the commit of the code, with a + if it was changed since; ``unknown`` where git doesn't know the code."""
    try:
        # A copy of the app may lie in a repository that has nothing to do with it.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD") + "+" * bool(_git("status", "--porcelain", "--", "../.."))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
