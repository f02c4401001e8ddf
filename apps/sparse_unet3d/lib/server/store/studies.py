"""The folder that is served: whether it exists, and which files in it aren't images."""

import itertools
import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from lib.core.errors import InputError
from lib.core.files import make_folder
from lib.core.volumes.dicom_files import is_dicom
from lib.core.volumes.formats import split_ending
from lib.core.volumes.image_files import OWN, is_image, is_listed, is_unicode, with_data_file

MOST_ENTRIES = 20_000
"""The most files that are looked at below each subfolder; further files aren't counted."""

MOST_NAMED = 3
"""The most names of one kind that a message lists."""

VOLUME = "volume"
"""Kind of a file that could be an image."""

NOT_UNICODE = "misnamed"
"""Kind of a file that could be an image but for its name."""

FOLDERS = (".n5",)
"""Endings of folders that hold one image."""

DICOM = (".dcm", ".ima", "dicomdir")
"""Kinds of files that are images only in a folder of their own."""

FROM_SLICER = "save each as .nrrd or .nii.gz from 3D Slicer"

ADVICE = {
    ".dcm .ima dicomdir": "DICOM: put the files of each patient or series into a folder of their own",
    ".lsm .oib .oif .oir .vsi .stk .ics": "save each as .nrrd from Fiji (File > Save As > Nrrd) or 3D Slicer",
    ".seg.nrrd": "segmentations, not images: put each into labels/final, named like its image",
    ".img .mgz .mgh .mnc .vtk .vti .gipl .nii.bz2": FROM_SLICER,
    ".n5": "save the level to work on as .nrrd from Fiji",
    ".zip .tar .gz .tgz .bz2 .xz .7z .rar": "unpack it",
    ".png .jpg .jpeg .bmp .gif": "single pictures: make one .nrrd of each stack, in Fiji or 3D Slicer",
    ".h5 .hdf5 .npy .npz .mat": "arrays without position and voxel size: write them as .nrrd or .nii.gz",
}
"""What to do with files that this software can't serve, by their endings."""

_ADVICE = {ending: advice for endings, advice in ADVICE.items() for ending in endings.split()} | {
    NOT_UNICODE: "their names aren't UTF-8; rename them"
}


def require_folder(studies: str, create: bool) -> None:
    """Refuse a missing studies folder.

    MONAI Label creates a missing folder before the app starts. An empty folder that is younger than this process
    therefore counts as missing, and is removed again.

    Raises:
        InputError: the folder is missing and ``create`` is False, or it is a file or can't be read.
    """
    folder = Path(studies)
    try:
        is_new = folder.is_dir() and folder.stat().st_mtime >= _start_of_process() and not os.listdir(folder)
        if is_new and not create:
            folder.rmdir()
        if not folder.exists() and not create:
            raise InputError(
                f"--studies {folder}: there is no such folder; check the path, or create it with --conf create yes"
            )
        if not folder.exists():
            make_folder(folder.absolute())
        os.listdir(folder)
    except OSError as error:
        raise InputError(
            f"--studies {folder}: can't be used as a folder ({error.strerror}); give a folder that you may read and "
            "write"
        ) from error


def _start_of_process() -> float:
    """Return roughly when the process started (when it imported logging), by the clock that stamps files."""
    record = logging.makeLogRecord({})
    return record.created - record.relativeCreated / 1000


def describe_unused(folder: Path, taken: Collection[str]) -> list[str]:
    """Say which files in a folder aren't images, and what to do with them.

    Files that nobody would expect to be images, such as texts and tables, aren't listed.

    Args:
        folder: the studies folder.
        taken: names of the files in it that belong to an image.

    Returns:
        A line for each kind: the number of files, some names, and what to do.
    """
    found: dict[tuple[str, bool], list[str]] = defaultdict(list)
    known = {*OWN, *(file.name for name in taken for file in with_data_file(folder / name) if file.parent == folder)}
    for path in _entries(folder):
        if path.name.startswith(".") or path.name in known:
            continue
        if kind := _kind(path):
            found[kind, False].append(path.name)
        elif path.is_dir():
            for inner in itertools.islice(_below(path), MOST_ENTRIES):
                if kind := _kind(inner):
                    found[kind, True].append(inner.relative_to(folder).as_posix())
    return [_line(kind, is_below, names) for (kind, is_below), names in sorted(found.items())]


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files in subfolders, and the folders that hold one image, sorted by name."""
    entries = _entries(folder)
    data = {file for path in entries for file in with_data_file(path)[1:]}
    for path in entries:
        if path.name.startswith(".") or path in data:
            continue
        # A link may lead back to a folder above.
        if path.is_dir() and not path.is_symlink() and not _kind(path):
            yield from _below(path)
        else:
            yield path


def _entries(folder: Path) -> list[Path]:
    """List a folder sorted by name; return nothing for a folder that may not be read, such as a system folder."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _kind(path: Path) -> str:
    """Return VOLUME for a file that could be an image, a known ending for other files, or "" for unknown files."""
    if not is_unicode(path.name) and split_ending(path.name)[1]:
        return NOT_UNICODE
    if is_listed(path.name):
        return VOLUME if is_image(path) else ".seg.nrrd"
    double, single = "".join(path.suffixes[-2:]).lower(), path.suffix.lower()
    if double in _ADVICE:
        return double
    for ending in (single, path.name.lower()):
        if ending in _ADVICE:
            return ending
    # Scanners give such files no ending, or numbers as endings.
    return ".dcm" if not path.suffix.strip(".").isalpha() and is_dicom(path) else ""


def _line(kind: str, is_below: bool, names: Sequence[str]) -> str:
    what = {VOLUME: "volume", "dicomdir": "DICOMDIR"}.get(kind, f"{kind} {'folder' if kind in FOLDERS else 'file'}")
    shown = [os.fsencode(name).decode(errors="replace") for name in names[:MOST_NAMED]]
    named = ", ".join(shown) + (", …" if len(names) > MOST_NAMED else "")
    if kind != VOLUME:
        advice = _ADVICE[kind] + (
            ", in the served folder itself" if is_below else ", in the served folder" if kind in DICOM else ""
        )
    elif is_below:
        advice = "move them into the served folder itself; subfolders aren't searched"
    else:
        advice = "the name of each differs from an image's only in the ending; rename it, or move it away"
    count = f"{len(names)} {what}{'' if len(names) == 1 else 's'}{' in subfolders' if is_below else ''}"
    return f"{count} ({named}): {advice}"
