"""Folders of DICOM files: which series they hold. No tag about a patient is read, so that none can leave the server."""

import itertools
import os
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pydicom.config
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

# The library's warnings would go to the server's log, and quote values.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

_LOOKED_AT = 20
"""Most entries of a folder that are looked at to tell whether it holds DICOM files."""

_TAGS = [
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
]

_NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "DOC", "REG", "FID"})
"""Modalities of objects that belong to images, but are none."""

_DEFLATED = "1.2.840.10008.1.2.1.99"


class Slice(NamedTuple):
    """What a file says of its slice; position, orientation and spacing are empty where it doesn't say them.

    Attributes:
        file: the file.
        series: its series' unique id.
        number: of the series.
        modality: how it was recorded, e.g. ``CT``.
        syntax: how the voxels are stored, as DICOM's unique id.
        frames: number of slices in the file.
        samples: values in each voxel.
        position: of the first voxel, LPS mm.
        orientation: (6,) directions of X and Y in LPS.
        spacing: (2,) size of a voxel along Y and X in mm.
        rows, columns: number of voxels along Y and X.
        stored: bits of a value, whether it has a sign, and the slope and intercept that rescale it.
    """

    file: Path
    series: str
    number: int | None
    modality: str
    syntax: str
    frames: int
    samples: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    rows: int
    columns: int
    stored: tuple[int, bool, float, float]


class Series(NamedTuple):
    """What a folder holds: the slices of each series by name, and the files that can't be read."""

    slices: dict[str, list[Slice]]
    damaged: list[Path]


def is_dicom_folder(path: Path) -> bool:
    """Return whether a path is a folder with DICOM files, by the content of some; once for each time of writing."""
    try:
        return path.is_dir() and _has_dicom(path, path.stat().st_mtime_ns)
    except OSError:
        return False


@lru_cache(maxsize=10_000)
def _has_dicom(folder: Path, _: int) -> bool:
    with os.scandir(folder) as entries:
        return any(is_dicom(Path(entry.path)) for entry in itertools.islice(entries, _LOOKED_AT))


def is_dicom(path: Path) -> bool:
    """Return whether a path is a DICOM file, by its content; links don't count."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder that may be DICOM, sorted: no links, no hidden ones, none in subfolders."""
    with os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if e.is_file(follow_symlinks=False) and not e.name.startswith("."))


def series_in(folder: Path) -> Series:
    """Find the series in a folder. Single slices, localizers, and objects without an image don't count.

    Names are made of series number and modality, and are unique: ``3-CT``, ``3-CT-2``.

    Raises:
        OSError: the folder can't be read.
    """
    by_series: dict[str, list[Slice]] = defaultdict(list)
    damaged = []
    for file in files_in(folder):
        state = file.stat()
        found = _slice(file, state.st_mtime_ns, state.st_size)
        if isinstance(found, Slice):
            by_series[found.series].append(found)
        elif found == "damaged":
            damaged.append(file)
    named: dict[str, list[Slice]] = {}
    stacks = [slices for _, slices in sorted(by_series.items()) if len(slices) > 1 or slices[0].frames > 1]
    for slices in sorted(stacks, key=lambda slices: (slices[0].number or 0, slices[0].modality)):
        name = "-".join(filter(None, [_digits(slices[0].number), slices[0].modality]))
        names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
        named[next(name for name in names if name not in named)] = slices
    return Series(named, damaged)


def _digits(number: int | None) -> str:
    return "series" if number is None else str(abs(number))


@lru_cache(maxsize=100_000)
def _slice(file: Path, written: int, size: int) -> Slice | str:
    """Read a file's tags, once for each time of writing and size; return ``ignored`` or ``damaged`` if it has none."""
    if not is_dicom(file):
        return "ignored"
    # Errors of the library may quote what they don't understand.
    try:
        meta = read_file_meta_info(file)
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if "Image Storage" not in UID(meta.get("MediaStorageSOPClassUID", "Image Storage")).name:
            return "ignored"
        # It would be expanded as a whole, to any size.
        if syntax == _DEFLATED:
            return "damaged"
        return _parsed(file, syntax, pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS))
    except Exception:
        return "damaged"


def _parsed(file: Path, syntax: str, tags: Any) -> Slice | str:
    modality = str(tags.get("Modality", ""))
    is_localizer = "LOCALIZER" in (tags.get("ImageType") or ())
    if modality in _NO_IMAGES or is_localizer:
        return "ignored"
    if not tags.get("Rows") or not tags.get("Columns"):
        return "damaged"

    def numbers(name: str) -> tuple[float, ...]:
        return tuple(float(value) for value in tags.get(name) or ())

    return Slice(
        file,
        str(tags.get("SeriesInstanceUID", "")),
        None if tags.get("SeriesNumber") is None else int(tags.SeriesNumber),
        modality if re.fullmatch("[A-Z]{2,8}", modality) else "",
        syntax,
        int(tags.get("NumberOfFrames") or 1),
        int(tags.get("SamplesPerPixel") or 1),
        numbers("ImagePositionPatient"),
        numbers("ImageOrientationPatient"),
        numbers("PixelSpacing"),
        int(tags.Rows),
        int(tags.Columns),
        (
            int(tags.get("BitsAllocated") or 16),
            bool(tags.get("PixelRepresentation")),
            float(1 if tags.get("RescaleSlope") is None else tags.RescaleSlope),
            float(tags.get("RescaleIntercept") or 0),
        ),
    )
