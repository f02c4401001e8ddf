"""Packages that only some file formats need, and that only those who have such files install."""

import importlib
from pathlib import Path
from typing import Any

from lib.core.errors import InputError


def extra_package(name: str, file: Path) -> Any:
    """Import the package that reads a file.

    Args:
        name: of the package, which is also the name to install.
        file: the file.

    Raises:
        InputError: it isn't installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{file}: reading {file.suffix.lower()} files needs the package {name}; install it with pip install -r "
            "requirements-formats.txt"
        ) from error
