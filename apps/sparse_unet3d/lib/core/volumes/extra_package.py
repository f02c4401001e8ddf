"""Packages that only some file formats need, and that only those who have such files install."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def reading_by_package(file: Path) -> Iterator[None]:
    """Turn any error while a package reads a file's metadata into an ``InputError``.

    Packages raise errors of many types for damaged files, ``MemoryError`` too, where one declares a size at random.
    """
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error}); check the permissions of the file and the disk") from error
    except Exception as error:
        raise InputError(
            f"{file}: cannot be read ({str(error) or type(error).__name__}); the file is damaged or incomplete, copy "
            "or export it again"
        ) from error
