"""NRRD files (``.nrrd``), including 3D Slicer's segmentations."""

from typing import IO

import numpy as np

from lib.core.errors import InputError

from .file_checks import MAX_RATIO, TEXT_RATIO, header_lines, inflated, reading
from .itk_source import ItkSource
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


class NrrdSource(ItkSource):
    """An NRRD file. Its header is read here too, since ITK doesn't report encoding, voxels in other files and space."""

    image_io = "NrrdImageIO"

    def _inspect(self) -> int:
        path = self.path
        with reading(path), path.open("rb") as file:
            if file.readline(16)[:4] != b"NRRD":
                raise ValueError("no NRRD header")
            self._text = _text_fields(file)
            left = path.stat().st_size - file.tell()
        if "data file" in self._text or "datafile" in self._text:
            raise InputError(f"{path}: the voxels are in another file; save header and voxels in one .nrrd file")
        encoding = self._text.get("encoding", "").lower()
        # ITK would notice this only when it reads the voxels.
        if encoding in ("bzip2", "bz2"):
            raise InputError(
                f"{path}: compressed by bzip2, which 3D Slicer can't open; save it with encoding gzip or raw, e.g. in "
                "Python: nrrd.write(new, *nrrd.read(old)) after header['encoding'] = 'gzip'"
            )
        return left * (MAX_RATIO if encoding in _GZIP else 1 if encoding == "raw" else TEXT_RATIO)

    def _verify(self) -> None:
        """Check compressed voxels against their checksum; ITK checks that uncompressed ones are complete."""
        # With a line skip, the compressed voxels begin elsewhere; they aren't checked.
        if self._text.get("encoding", "").lower() not in _GZIP or "line skip" in self._text:
            return
        with reading(self.path), self.path.open("rb") as file:
            for _ in header_lines(file):
                pass
            for _ in inflated(file):
                pass

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


def _text_fields(file: IO[bytes]) -> dict[str, str]:
    """Return the fields of a header, with names in lower case."""
    fields = {}
    for line in header_lines(file):
        name, colon, value = line.decode("utf-8", errors="replace").partition(":")
        if colon and not value.startswith("=") and not name.startswith("#"):
            fields[name.strip().lower()] = value.strip()
    return fields
