"""Which files make up an image: one file, one for each channel, named as for nnU-Net, or a part of one file.

``case_0000.nii.gz``, ``case_0001.nii.gz``, … are channels 0, 1, … of one image ``case``. A folder uses these names if
any file name in it ends in ``_0000``. In other folders, ``mouse_0003.nii.gz`` is an image of its own. All images of a
folder that are stored by channel must have the same number of channels.

Files of some formats may hold several images (series, or points in time): the one called NAME in ``mouse.tif`` has the
id ``mouse_NAME`` and the path ``mouse.tif/NAME``.

In formats whose headers have data files, the header stands for both files. A folder of DICOM files is an image too, or
as many images as it has series.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lib.core.errors import InputError

from .data_files import is_beside
from .dicom_files import files_in
from .formats import FORMATS, SEGMENTATION, Format, file_of, format_of, is_dicom, split_ending
from .slicer_segmentation import is_slicer_segmentation

OWN = ("labels", "models", "predictions")
"""Folders beside images that this software writes."""

_CHANNEL = re.compile(r"(.+)_([0-9]{4})")
"""A file name without its ending: the image's id and the number of the channel."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image.

    Attributes:
        path: the path that stands for the image: its only file, or the file of channel 0, which may be missing, or
            ``FILE/NAME``.
        ending: what follows the image's id in the path; ``ENDING/NAME`` if the path is ``FILE/NAME``.
        files: the existing files, by channel.
        fault: why the files can't be read as one image, with their names; empty if they can.
    """

    path: Path
    ending: str
    files: tuple[Path, ...]
    fault: str = ""


def is_listed(name: str) -> bool:
    """Return whether a name has a known ending and no leading dot, unlike incomplete files and those of macOS.

    A name that isn't Unicode is never listed, because it can't be sent to clients.
    """
    return not name.startswith(".") and bool(split_ending(name)[1]) and is_unicode(name)


def is_unicode(name: str) -> bool:
    """Return whether a file's name is Unicode; on Linux, it may be any bytes, of which Python makes half characters."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def is_image(path: Path) -> bool:
    """Return whether a file or folder counts as an image.

    It ``is_listed``, and no Slicer segmentation by name or content. Folders of DICOM files need no ending.
    """
    ending = split_ending(path.name)[1].lower()
    if not ending:
        return not path.name.startswith(".") and path.name not in OWN and is_unicode(path.name) and is_dicom(path)
    if not is_listed(path.name) or ending.startswith(SEGMENTATION):
        return False
    return ending not in (".nrrd", ".nhdr") or not is_slicer_segmentation(path)


def images_in(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, ImageFiles]:
    """Return the images in a folder: ``images_among`` all its files."""
    return images_among(folder, os.listdir(folder), known)


def images_among(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> dict[str, ImageFiles]:
    """Return the images that these files in a folder make up.

    Args:
        folder: where the files are.
        names: file names; those that aren't images (``is_image``) are ignored.
        known: ``ImageFiles.ending`` by id. They decide between files that differ in their ending alone. Without one,
            the first name counts.

    Returns:
        The images by id, sorted. The id is the file name without its ending and without the number of a channel, but
            with the NAME of one of several images.
    """
    whole: dict[str, ImageFiles] = {}
    by_channel: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    # Sorted by name, which sorts channels by number.
    names = sorted(name for name in names if is_image(folder / name))
    numbers = {name: match for name in names if (match := _CHANNEL.fullmatch(split_ending(name)[0]))}
    has_channel_0 = any(int(match[2]) == 0 for match in numbers.values())
    for name in names:
        if has_channel_0 and name in numbers:
            image_id, number = numbers[name].groups()
            by_channel[image_id][int(number)].append(folder / name)
        else:
            for image_id, image in _images_of(folder / name):
                if image_id not in whole or image.ending == (known or {}).get(image_id):
                    whole[image_id] = image

    images = {**whole}
    # Images without channel 0 don't count here: otherwise, with a name that ends in a year, all other images would seem
    # to lack channels.
    last, example = max(
        (max(channels.items()) for channels in by_channel.values() if 0 in channels), default=(0, [folder])
    )
    for image_id, channels in by_channel.items():
        files = [path for paths in channels.values() for path in paths]
        ending = split_ending(files[0].name)[1]
        expected = [folder / f"{image_id}_{number:04d}{ending}" for number in range(max(last, *channels) + 1)]
        missing = [path for number, path in enumerate(expected) if number not in channels]
        first = files[0] if 0 in channels else expected[0]
        others = whole[image_id].files if image_id in whole else ()
        claims = [[*others, first]] if others else [*channels.values()]
        fault = _clash(image_id, claims) or _lack(image_id, missing, files, example[0])
        images[image_id] = ImageFiles(first, first.name.removeprefix(image_id), (*files, *others), fault)
    return dict(sorted(images.items()))


def is_label_file(name: str) -> bool:
    """Return whether a name ``is_listed`` and of a format of single files, as labels are."""
    return is_listed(name) and _format(name).is_one_file


def is_image_folder(name: str) -> bool:
    """Return whether a name ``is_listed`` and of a format of folders."""
    return is_listed(name) and _format(name).is_folder


def all_files(path: Path) -> list[Path]:
    """Return the file itself and its data file, or all files in a folder that is an image, sorted."""
    if is_dicom(path):
        return files_in(path)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [file for file in with_data_file(path) if file == path or is_beside(path, file)]


def with_data_file(path: Path) -> tuple[Path, ...]:
    """Return a file or folder, and what else changes when the image does: its data file, or its DICOM files.

    A data file may be missing.
    """
    if is_dicom(path):
        return (path, *files_in(path))
    ending = split_ending(path.name)[1].lower().removeprefix(SEGMENTATION)
    if not ending or FORMATS[ending].data_file is None:
        return (path,)
    with suppress(OSError):
        state = path.stat()
        return _with_data_file(path, state.st_mtime_ns, state.st_size)
    return (path,)


@lru_cache(maxsize=10_000)
def _with_data_file(path: Path, written: int, size: int) -> tuple[Path, ...]:
    """Return a header and its data file; read it once for each time of writing and size."""
    data_file = _format(path.name).data_file
    assert data_file
    # Who opens it is told why it can't be read.
    with suppress(InputError):
        return tuple(dict.fromkeys((path, data_file(path))))
    return (path,)


def _format(name: str) -> Format:
    return FORMATS[split_ending(name)[1].lower().removeprefix(SEGMENTATION)]


def image_path(folder: Path, image_id: str, ending: str) -> Path:
    """Return the path of an image; see ``ImageFiles`` for the ending."""
    of_file, _, name = ending.partition("/")
    return folder / f"{image_id.removesuffix(f'_{name}')}{of_file}" / name if name else folder / f"{image_id}{ending}"


def _images_of(file: Path) -> Iterator[tuple[str, ImageFiles]]:
    """Yield each image in a file, with its id."""
    stem, ending = split_ending(file.name)
    names: tuple[str, ...] = ()
    if format_of(file).images_in:
        with suppress(OSError):
            state = file.stat()
            names = _names_in(file, state.st_mtime_ns, state.st_size)
    if not names:
        yield stem, ImageFiles(file, ending, (file,))
    for name in names:
        yield f"{stem}_{name}", ImageFiles(file / name, f"{ending}/{name}", (file,))


@lru_cache(maxsize=10_000)
def _names_in(file: Path, written: int, size: int) -> tuple[str, ...]:
    """Return the names of several images in a file; look into it once for each time of writing and size."""
    images_in = format_of(file).images_in
    assert images_in
    try:
        return images_in(file)
    except InputError:
        # Who opens it is told why it can't be read.
        return ()


def _clash(image_id: str, claims: Iterable[Sequence[Path]]) -> str:
    """Describe files that claim to be the same part of an image; empty if there are none."""
    for paths in claims:
        if len(paths) > 1:
            return (
                f"{' and '.join(map(str, paths))}: both are files of the image {image_id!r}; move one of them out of "
                "the folder, or rename it"
            )
    return ""


def _lack(image_id: str, missing: Sequence[Path], files: Sequence[Path], example: Path) -> str:
    """Describe the channels that an image lacks; empty if it lacks none."""
    if not missing:
        return ""
    others = "" if example in files else f", another image has {example.name}"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"{missing[0]}{more}: no such file; expected channels 0 to {len(missing) + len(files) - 1} of the image "
        f"{image_id!r} (it has {files[-1].name}{others}). Add what is missing, or move the image's other files out of "
        "the folder. If they are not channels, rename them: such names must not end in _ and four digits"
    )


def files_of(path: Path) -> tuple[Path, ...]:
    """Return all files of the image that a file belongs to, by channel; the path alone if it belongs to none.

    Raises:
        InputError: a channel is missing (which may be ``path`` itself) or exists twice; the message names the files.
    """
    if file_of(path) != path:
        return (path,)
    images = images_in(path.parent) if path.parent.is_dir() else {}
    stem = split_ending(path.name)[0]
    channel = _CHANNEL.fullmatch(stem)
    for image_id in [channel[1], stem] if channel else [stem]:
        image = images.get(image_id)
        if image and path in (image.path, *image.files):
            if image.fault:
                raise InputError(image.fault)
            return image.files
    return (path,)
