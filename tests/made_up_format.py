"""A made-up format of images that 3D Slicer can't open: ``.npz`` files with one array (C, X, Y, Z) for each image."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes import formats
from lib.core.volumes.formats import Format, file_of
from lib.core.volumes.source import Box
from lib.core.volumes.volume import Geometry

AFFINE = np.array([[-0.5, 0, 0, 3], [0, -0.5, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1.0]])


class NpzSource:
    """An array of a ``.npz`` file: the only one, or the one of a name."""

    def __init__(self, path: Path) -> None:
        file = file_of(path)
        self.notes = (f"{path}: made up",)
        with np.load(file) as arrays:
            if file == path and len(arrays.files) > 1:
                raise InputError(f"{path}: holds several images")
            self._array = arrays[arrays.files[0] if file == path else path.name]
        channels, x, y, z = self._array.shape
        self.geometry = Geometry((x, y, z), AFFINE, channels, self._array.dtype, name=str(path))

    @staticmethod
    def images_in(path: Path) -> tuple[str, ...]:
        try:
            with np.load(path) as arrays:
                return tuple(arrays.files) if len(arrays.files) > 1 else ()
        except ValueError as error:
            raise InputError(f"{path}: damaged") from error

    def read(self, box: Box | None = None) -> NDArray[Any]:
        x, y, z = box or (slice(None),) * 3
        return np.ascontiguousarray(self._array[:, x, y, z])

    def working_memory(self, box: Box | None = None) -> int:
        return 0


@contextmanager
def npz_format() -> Iterator[None]:
    """Let the software read ``.npz`` files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(formats.FORMATS, ".npz", Format(NpzSource, images_in=NpzSource.images_in, in_slicer=False))
        yield
