"""MetaImage files (``.mha``)."""

from collections.abc import Iterator
from typing import IO

from lib.core.errors import InputError

from .file_checks import MAX_RATIO, TEXT_RATIO, header_lines, inflated, reading
from .itk_source import ItkSource


class MetaImageSource(ItkSource):
    """A MetaImage file. Its header is read here too, since ITK doesn't report where and how the voxels are stored."""

    image_io = "MetaImageIO"

    def _inspect(self) -> int:
        path = self.path
        with reading(path), path.open("rb") as file:
            fields = _fields(file)
            left = path.stat().st_size - file.tell()
            if "elementdatafile" not in fields:
                raise ValueError("no MetaImage header")
        if fields["elementdatafile"].upper() != "LOCAL":
            raise InputError(f"{path}: the voxels are in another file; save header and voxels in one .mha file")
        self._is_compressed = _is_true(fields.get("compresseddata", ""))
        if not _is_true(fields.get("binarydata", "True")):
            return left * TEXT_RATIO
        return left * (MAX_RATIO if self._is_compressed else 1)

    def _verify(self) -> None:
        """Check compressed voxels against their checksum; ITK checks that uncompressed ones are complete."""
        if not self._is_compressed:
            return
        with reading(self.path), self.path.open("rb") as file:
            for _ in _lines(file):
                pass
            for _ in inflated(file):
                pass


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a header up to the one that says where the voxels are."""
    for line in header_lines(file):
        yield line
        if line.lower().startswith(b"elementdatafile"):
            return


def _fields(file: IO[bytes]) -> dict[str, str]:
    parts = (line.decode("utf-8", errors="replace").partition("=") for line in _lines(file))
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def _is_true(value: str) -> bool:
    """Read a flag as ITK does, by its first letter."""
    return value[:1] in ("T", "t", "1")
