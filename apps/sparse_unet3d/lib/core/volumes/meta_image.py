"""MetaImage files (``.mha``), and headers with a data file (``.mhd``)."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .data_files import DetachedHeader, named_data_file
from .file_checks import MAX_RATIO, TEXT_RATIO, header_lines, read_compressed, read_stored, read_text, reading
from .itk_source import Declared, ItkSource

_MOST_AXES = 10
"""Most axes. A file that declares other numbers than 0 to this one makes ITK hang."""

_FIELD = re.compile(r"\s*([^=:]*?)\s*[=:](.*)", re.DOTALL)

_MOST_TEXT = 200
"""Most bytes of a field that ITK keeps as a text; it crashes at some longer ones."""

_TEXTS = ("ObjectType", "ObjectSubType", "TransformType", "Name", "Comment", "AcquisitionDate", "AnatomicalOrientation")
"""Fields that ITK keeps as texts."""

_LAST = "ElementDataFile"
"""The field after which the voxels begin."""


class MetaImageSource(ItkSource):
    """A MetaImage file. Its header is read here too, since ITK doesn't report where and how the voxels are stored."""

    image_io = "MetaImageIO"

    def _inspect(self) -> Declared:
        path = self.path
        with reading(path), path.open("rb") as file:
            fields = self._text = _fields(file)
            name = _data_name(fields)
            self._data, start = (path, file.tell()) if name is None else (self._data_file(name), 0)
            size = self._data.stat().st_size
            axes, compressed = int(fields.get("NDims", "0")), int(fields.get("CompressedDataSize", "0"))
            # A positive size of the header is a place in the file, and -1 means that the voxels end with the file.
            header = int(fields.get("HeaderSize", "0"))
            self._start, self._skip = header if header > 0 else start, min(header, 0)
            if not 0 <= axes <= _MOST_AXES or header < -1:
                raise ValueError(f"NDims = {axes}, HeaderSize = {header}")
            if compressed > size:
                raise EOFError(f"{size} bytes, expected {compressed}")
            self._is_compressed = _is_true(fields.get("CompressedData", ""))
            self._is_text = not _is_true(fields.get("BinaryData", "True"))
            sizes = map(int, fields.get("DimSize", "").split()[:axes])
            values = math.prod(sizes) * int(fields.get("ElementNumberOfChannels", "1"))
        return Declared(values, size * (TEXT_RATIO if self._is_text else MAX_RATIO if self._is_compressed else 1))

    def _channels(self) -> Iterator[NDArray[Any]]:
        geometry = self.geometry
        values = geometry.channels * math.prod(geometry.shape)
        with reading(self._data):
            if self._is_text:
                stored = read_text(self._data, self._start, values, geometry.dtype)
            else:
                read = read_compressed if self._is_compressed else read_stored
                content = read(self._data, self._start, values * geometry.dtype.itemsize, self._skip)
                stored = content.view(geometry.dtype.newbyteorder(">" if self._is_big_endian() else "<"))
        if self._has_components:
            yield from stored.reshape(-1, *geometry.shape, order="F")
        else:
            yield from np.moveaxis(stored.reshape(*geometry.shape, -1, order="F"), 3, 0)

    @property
    def _has_components(self) -> bool:
        """Whether a voxel's channels lie side by side, rather than one volume after the other."""
        return int(self._text.get("ElementNumberOfChannels", "1")) > 1

    def _is_big_endian(self) -> bool:
        order = self._text.get("ElementByteOrderMSB", "")
        return _is_true(self._text.get("BinaryDataByteOrderMSB", order))


class MetaImageHeaderSource(DetachedHeader, MetaImageSource):
    """A MetaImage header whose voxels are in another file."""

    @staticmethod
    def data_file(path: Path) -> Path:
        """Return the path of the data file; see ``named_data_file``."""
        return named_data_file(path, lambda file: _data_name(_fields(file)))


def _data_name(fields: Mapping[str, str]) -> str | None:
    """Return the data file's name in a header; None if the voxels follow the header."""
    return None if fields[_LAST].upper() == "LOCAL" else fields[_LAST]


def _fields(file: IO[bytes]) -> dict[str, str]:
    """Return the fields of a header up to the last one.

    Raises:
        ValueError: a line is no field, or the last field is missing.
    """
    fields = {}
    for line in header_lines(file):
        field = _FIELD.fullmatch(line.decode("utf-8", errors="replace"))
        if field is None:
            raise ValueError(f"the line {line[:80]!r} in the header")
        name = field[1]
        # With another spelling, ITK would take the voxels for more of the header.
        if name != _LAST and name.lower() == _LAST.lower():
            raise ValueError(f"the field {name}, expected {_LAST}")
        fields[name] = field[2].strip()
        if name in _TEXTS and len(line) > _MOST_TEXT:
            raise ValueError(f"the field {name} of {len(line)} bytes, {_MOST_TEXT} are the most")
        if name == _LAST:
            return fields
    raise ValueError("no MetaImage header")


def _is_true(value: str) -> bool:
    """Read a flag as ITK does, by its first letter."""
    return value[:1] in ("T", "t", "1")
