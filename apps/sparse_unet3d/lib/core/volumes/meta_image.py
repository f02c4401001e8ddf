"""MetaImage files (``.mha``)."""

import math
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

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
        path, size = self.path, self.path.stat().st_size
        with reading(path), path.open("rb") as file:
            fields = self._text = _fields(file)
            if fields[_LAST].upper() != "LOCAL":
                raise InputError(f"{path}: the voxels are in another file; save header and voxels in one .mha file")
            axes, compressed = int(fields.get("NDims", "0")), int(fields.get("CompressedDataSize", "0"))
            # A positive size of the header is a place in the file, and -1 means that the voxels end with the file.
            header = int(fields.get("HeaderSize", "0"))
            self._start, self._skip = header if header > 0 else file.tell(), min(header, 0)
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
        with reading(self.path):
            if self._is_text:
                stored = read_text(self.path, self._start, values, geometry.dtype)
            else:
                read = read_compressed if self._is_compressed else read_stored
                content = read(self.path, self._start, values * geometry.dtype.itemsize, self._skip)
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
