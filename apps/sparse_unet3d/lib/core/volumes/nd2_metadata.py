"""Decode the metadata of ND2 files within bounded memory and time, which the package nd2 doesn't.

Each item has a type, a name and a value, which may be more items.
"""

import struct
import zlib
from typing import Any

from .file_checks import MOST_BESIDE

_MOST_ITEMS = 1 << 18
"""Most items; each takes hundreds of bytes in memory."""

_DEEPEST = 32
"""Most levels of items in items."""

_NUMBERS = {kind: struct.Struct(form) for kind, form in enumerate(("<?", "<i", "<I", "<q", "<Q", "<d", "<Q"), 1)}
"""How numbers are stored, by the type of the item."""

_TEXT, _BYTES, _ITEMS, _COMPRESSED = 8, 9, 11, 76
"""The other types."""

_BEFORE_COMPRESSED = 12
"""Bytes of a compressed item before what is compressed."""


def decoded(content: bytes) -> dict[str, Any]:
    """Return all items by their names, in the form that the package nd2 uses.

    Raises:
        ValueError, struct.error, zlib.error: damaged, or too much.
    """
    if content[:1] == bytes([_COMPRESSED]):
        expander = zlib.decompressobj()
        content = expander.decompress(content[_BEFORE_COMPRESSED:], MOST_BESIDE)
        if not expander.eof:
            raise ValueError(f"its metadata is incomplete, or expands to more than {MOST_BESIDE} bytes")
    return _Decoder(content).items(0, len(content), _MOST_ITEMS, 0)


class _Decoder:
    """Decodes a buffer of items."""

    def __init__(self, content: bytes) -> None:
        self._content, self._decoded = content, 0

    def items(self, at: int, end: int, count: int, depth: int) -> dict[str, Any]:
        """Return the items between two places by their names; those without a name are numbered.

        Args:
            at: where they begin.
            end: where they end.
            count: how many there are at most.
            depth: the level.
        """
        if depth > _DEEPEST:
            raise ValueError(f"its metadata has more than {_DEEPEST} levels")
        found: dict[str, Any] = {}
        while at < end and count > 0:
            name, value, at = self._item(at, depth)
            found[name or f"i{len(found):010}"] = value
            count -= 1
        return found

    def _item(self, at: int, depth: int) -> tuple[str, Any, int]:
        """Return the name and value of the item at a place, and where the next one begins."""
        self._decoded += 1
        if self._decoded > _MOST_ITEMS:
            raise ValueError(f"its metadata has more than {_MOST_ITEMS} items")
        start, (kind, length) = at, self._content[at : at + 2]
        at += 2 + 2 * length
        name = self._content[start + 2 : at].decode("utf-16-le", "replace").rstrip("\0")
        if kind in _NUMBERS:
            return name, _NUMBERS[kind].unpack_from(self._content, at)[0], at + _NUMBERS[kind].size
        if kind == _TEXT:
            end = self._content.index(b"\0\0", at)
            while (end - at) % 2:
                end = self._content.index(b"\0\0", end + 1)
            return name, self._content[at:end].decode("utf-16-le", "replace"), end + 2
        if kind == _BYTES:
            (size,) = struct.unpack_from("<Q", self._content, at)
            return name, self._content[at + 8 : at + 8 + size], at + 8 + size
        if kind == _ITEMS:
            count, size = struct.unpack_from("<IQ", self._content, at)
            # Where each of the items is follows them.
            return name, self.items(at + 12, start + size, count, depth + 1), start + size + 8 * count
        raise ValueError(f"its metadata has an item of the unknown type {kind}")
