"""NRRD files (``.nrrd``), including 3D Slicer's segmentations; and headers with a data file (``.nhdr``)."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError

from .crop import FIELD, Crop
from .data_files import DetachedHeader, named_data_file
from .file_checks import (
    MAX_RATIO,
    MOST_BESIDE,
    TEXT_RATIO,
    header_lines,
    read_compressed,
    read_hexadecimal,
    read_stored,
    read_text,
    reading,
)
from .itk_source import Declared, ItkSource
from .volume import LPS_TO_RAS, Affine

_NAMED_SPACES = (
    "left-posterior-superior",
    "lps",
    "left-anterior-superior",
    "las",
    "right-anterior-superior",
    "ras",
)
"""Spaces that Slicer knows in files with several channels. It takes all others for RAS, and ITK takes them for LPS."""

_GZIP = ("gzip", "gz")
_TEXT = ("ascii", "text", "txt")

_MOST_AXES = 8
"""Most axes. ITK crashes at 16."""

_LONGEST_FIELD = 500
"""Most bytes of a line that describes the image; ITK crashes at longer ones."""

_MOST_SKIPPED = 1 << 20
"""Most bytes of the lines that are skipped before the voxels."""

_PLACES = ("domain", "space", "time", "none", "???")
"""Kinds of axes along which voxels lie in space; the axis of any other kind counts channels."""


class NrrdSource(ItkSource):
    """An NRRD file. Its header is read here too, since ITK doesn't report where and how the voxels are stored."""

    image_io = "NrrdImageIO"

    def __init__(self, path: Path) -> None:
        """Read the header, as ``ItkSource``, and where a box of a larger image comes from."""
        super().__init__(path)
        if text := self.fields.get(FIELD):
            self.geometry = replace(self.geometry, crop=Crop.from_text(text, path, self.geometry.channels))

    @classmethod
    def write_image(cls, path: Path, array: NDArray[Any], affine: Affine, fields: Mapping[str, str]) -> None:
        """Write an image; of several channels, each voxel is a vector, which 3D Slicer opens.

        Args:
            path: where to write.
            array: (C, X, Y, Z).
            affine: (4, 4) voxel to RAS mm.
            fields: further entries of the header.

        Raises:
            OSError: it can't be written.
        """
        is_vector = len(array) > 1
        if array.dtype == np.float16:
            array = array.astype(np.float32)  # NRRD has no such type
        image = sitk.GetImageFromArray(array.T if is_vector else array[0].T, isVector=is_vector)
        for key, value in fields.items():
            image.SetMetaData(key, value)
        # Grey values hardly get smaller.
        cls._write(path, image, affine, is_compressed=False)

    def _unit_note(self) -> str:
        stated = self._text.get("space units", "").replace('"', "").split()
        if not stated:
            return super()._unit_note()
        if set(stated) == {"mm"}:
            return ""
        return (
            f"{self.path}: the file states lengths in {' '.join(stated)}, which count as millimetres, as in 3D Slicer"
        )

    def _inspect(self) -> Declared:
        path = self.path
        with reading(path), path.open("rb") as file:
            self._text = _text_fields(file)
            name, start = _data_name(self._text), file.tell()
        self._data = path if name is None else self._data_file(name)
        with reading(self._data), self._data.open("rb") as file:
            file.seek(start if name is None else 0)
            _skip_lines(file, int(self._text.get("line skip", self._text.get("lineskip", "0"))))
            self._start = file.tell()
            self._skip = int(self._text.get("byte skip", self._text.get("byteskip", "0")))
            self._sizes = tuple(map(int, self._text.get("sizes", "").split()))
            left = self._data.stat().st_size - self._start
            self._encoding = self._text.get("encoding", "").lower()
            # ITK reads all bytes that it skips.
            if self._skip > MOST_BESIDE or (self._skip < 0 and self._encoding not in (*_GZIP, "raw")):
                raise ValueError(f"byte skip {self._skip} with encoding {self._encoding}")
            if len(self._sizes) > _MOST_AXES:
                raise ValueError(f"{len(self._sizes)} axes")
            kinds = enumerate(self._text.get("kinds", "").lower().split())
            self._channel_axes = [axis for axis, kind in kinds if kind not in _PLACES]
            if len(self._channel_axes) > 1:
                raise ValueError(f"{len(self._channel_axes)} axes count channels")
        if self._encoding in ("bzip2", "bz2"):
            raise InputError(
                f"{path}: compressed by bzip2, which 3D Slicer can't open; save it with encoding gzip or raw, e.g. in "
                "Python: nrrd.write(new, *nrrd.read(old)) after header['encoding'] = 'gzip'"
            )
        ratio = MAX_RATIO if self._encoding in _GZIP else 1 if self._encoding == "raw" else TEXT_RATIO
        return Declared(math.prod(self._sizes), left * ratio)

    def _channels(self) -> Iterator[NDArray[Any]]:
        with reading(self._data):
            stored = self._stored_voxels()
        for axis in self._channel_axes:
            stored = np.moveaxis(stored, axis, -1)
        yield from np.moveaxis(stored.reshape(*self.geometry.shape, -1, order="F"), 3, 0)

    def _stored_voxels(self) -> NDArray[Any]:
        """Return the array in the order of the file's axes.

        Raises:
            EOFError, ValueError, zlib.error: the file is damaged.
        """
        dtype, count, path = self.geometry.dtype, math.prod(self._sizes), self._data
        if self._encoding in _TEXT:
            return read_text(path, self._start + self._skip, count, dtype).reshape(self._sizes, order="F")
        size = count * dtype.itemsize
        if self._encoding in _GZIP:
            content = read_compressed(path, self._start, size, self._skip)
        elif self._encoding == "raw":
            content = read_stored(path, self._start, size, self._skip)
        else:
            content = read_hexadecimal(path, self._start + self._skip, size)
        is_big = self._text.get("endian", "").lower() == "big"
        return np.ndarray(self._sizes, dtype.newbyteorder(">" if is_big else "<"), content.data, order="F")

    def _as_in_slicer(
        self, shape: tuple[int, int, int], affine: Affine, axes: int, components: int
    ) -> tuple[Affine | None, bool]:
        if axes > 3 or components == 1:
            return super()._as_in_slicer(shape, affine, axes, components)
        # Slicer reads these by another library, which leaves left-handed grids as they are.
        is_named = self._text.get("space", "").lower() in _NAMED_SPACES
        has_directions = "space directions" in self._text
        has_origin = "nan" not in self._text.get("space origin", "nan").lower()
        if is_named and has_directions and has_origin:
            return None, False
        misread: Affine = LPS_TO_RAS @ affine
        if is_named and has_directions:
            misread[:3, :3] = affine[:3, :3]
        if not has_origin:
            misread[:3, 3] = -misread[:3, :3] @ (np.array(shape) - 1) / 2
        elif is_named:
            misread[:3, 3] = affine[:3, 3]
        return misread, False


class NrrdHeaderSource(DetachedHeader, NrrdSource):
    """An NRRD header whose voxels are in another file."""

    @staticmethod
    def data_file(path: Path) -> Path:
        """Return the path of the data file; see ``named_data_file``."""
        return named_data_file(path, lambda file: _data_name(_text_fields(file)))


def _data_name(fields: Mapping[str, str]) -> str | None:
    """Return the data file's name in a header; None if the voxels follow the header."""
    name = fields.get("data file", fields.get("datafile"))
    # Older programs write the name as a path from the header's folder.
    return None if name is None else name.removeprefix("./")


def _text_fields(file: IO[bytes]) -> dict[str, str]:
    """Return the fields of a header, with names in lower case.

    Raises:
        ValueError: it is no NRRD header, or a line is too long.
    """
    if file.readline(16)[:4] != b"NRRD":
        raise ValueError("no NRRD header")
    fields = {}
    for line in header_lines(file):
        name, colon, value = line.decode("utf-8", errors="replace").partition(":")
        if name.startswith("#") or value.startswith("="):
            continue
        if len(line) > _LONGEST_FIELD and name.lower() != "content":
            raise ValueError(f"the line {line[:20]!r}… of {len(line)} bytes, {_LONGEST_FIELD} are the most")
        if colon:
            fields[name.strip().lower()] = value.strip()
    return fields


def _skip_lines(file: IO[bytes], count: int) -> None:
    """Move behind some lines, each of which ends by a line feed, a carriage return or both.

    Raises:
        ValueError: there are fewer, or they are too long.
    """
    if count == 0:
        return
    start, text = file.tell(), file.read(_MOST_SKIPPED)
    end = next(itertools.islice(re.finditer(rb"\r\n?|\n", text), count - 1, None), None) if count > 0 else None
    if end is None:
        raise ValueError(f"line skip {count}: there aren't so many lines in the next {len(text)} bytes")
    file.seek(start + end.end())
