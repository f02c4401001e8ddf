"""Moves a project: writes all of it into one ZIP file, and unpacks such a file on another computer.

The ZIP file has the images, all labels with their label info, the index and the models, as in the folder, and
``project.json``: the size and SHA-256 of each file. Users and their passwords aren't in it.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from lib.core.errors import InputError
from lib.core.files import make_folder, new_folder, remove_abandoned, replacing
from lib.core.volumes.data_files import has_name_of_data
from lib.core.volumes.formats import split_ending
from lib.core.volumes.image_files import OWN, images_in, is_image_folder, is_listed

from .annotations import VERSION, AnnotationReader
from .folder_store import INDEX, READY_MADE

CONTENTS = "project.json"

MODELS = ("model.pt", "plan.json", "history.json", "checkpoint.pt", "archive/*.pt")
"""Files of the folder of models; the others are about a running training."""

BLOCK = 1 << 20
"""Bytes that are copied at a time."""

LONGEST_CONTENTS = 1 << 28
"""Bytes of ``project.json``; a million files take less."""


class File(BaseModel):
    """A file of the project, with its size in bytes."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Contents(BaseModel):
    """``project.json``."""

    format: int = Field(ge=1, le=1)
    files: dict[str, File]


class Moved(NamedTuple):
    """What was written or unpacked: number of images and of all files, and bytes."""

    images: int
    files: int
    size: int


def export_project(store: AnnotationReader, models: Path, target: Path) -> Moved:
    """Write a project into a ZIP file. A server may go on using the folder: what it acknowledged before is in the file.

    Args:
        store: the project's images and labels.
        models: the folder of its models, which may be missing.
        target: the ZIP file, which doesn't exist yet.

    Raises:
        InputError: ``target`` exists.
        Locked: another process has been changing the folder for too long.
        OSError: a file can't be read or written.
    """
    if target.exists():
        raise InputError(f"{target}: exists already; give another name, or remove it")
    remove_abandoned(target.absolute().parent)
    folder = store.folder
    with replacing(target) as beside, zipfile.ZipFile(beside, "w") as archive:
        written = _Writer(archive)
        for path in store.existing_files():
            written.add(path, path.relative_to(folder).as_posix())
        # These may be replaced at any time, each together with its label info.
        for paths in _together(path for path in _labels(folder) if not _is_never_changed(path)):
            with store.held():
                for path in paths:
                    written.add_if_there(path, path.relative_to(folder).as_posix())
        # A submission since then has written a version too, of which the next server makes the current annotation.
        with store.held():
            unchanged = [path for path in _labels(folder) if _is_never_changed(path)]
            index = store.index_content()
        for path in unchanged:
            written.add(path, path.relative_to(folder).as_posix())
        for pattern in MODELS:
            for path in sorted(models.glob(pattern)):
                written.add_if_there(path, f"models/{path.relative_to(models).as_posix()}")
        written.add_text(INDEX, json.dumps(index))
        contents = Contents(format=1, files=written.files)
        archive.writestr(CONTENTS, contents.model_dump_json(indent=1))
    return _moved(contents, len(images_in(folder)))


def import_project(source: Path, target: Path) -> Moved:
    """Unpack a project into a new folder; the folder appears when all of it is there and is as it was written.

    Args:
        source: the ZIP file.
        target: the folder, which doesn't exist yet or is empty.

    Raises:
        InputError: ``target`` isn't empty, or ``source`` is no such ZIP file, is damaged, or takes more space than
            there is.
        OSError: a file can't be read or written.
    """
    with new_folder(target) as beside, _reading(source), zipfile.ZipFile(source) as archive:
        contents = _contents(archive, source)
        size = sum(file.size for file in contents.files.values())
        if size > (free := shutil.disk_usage(beside).free):
            raise InputError(f"{source}: takes {size / 1e9:.1f} GB, but {target} has {free / 1e9:.1f} GB of space")
        for name, file in contents.files.items():
            _unpack(archive, name, file, beside, source)
    return _moved(contents, len(images_in(target)))


def _moved(contents: Contents, images: int) -> Moved:
    return Moved(images, len(contents.files), sum(file.size for file in contents.files.values()))


# Writing


class _Writer:
    """Writes files into a ZIP file, as they are: images and labels are compressed already."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.files: dict[str, File] = {}

    def add(self, path: Path, name: str) -> None:
        entry = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
        with path.open("rb") as file, self._archive.open(entry, "w", force_zip64=True) as written:
            self.files[name] = _copy(file, written)

    def add_if_there(self, path: Path, name: str) -> None:
        if path.is_file():
            self.add(path, name)

    def add_text(self, name: str, text: str) -> None:
        content = text.encode()
        self._archive.writestr(name, content)
        self.files[name] = File(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _copy(source: IO[bytes], target: IO[bytes], most: int | None = None) -> File:
    """Copy a file, or at most ``most`` bytes and one more; return its size and checksum."""
    size, digest = 0, hashlib.sha256()
    while (most is None or size <= most) and (block := source.read(BLOCK)):
        size += len(block)
        digest.update(block)
        target.write(block)
    return File(size=size, sha256=digest.hexdigest())


def _labels(folder: Path) -> list[Path]:
    """Return the label files and their label info, but for incomplete ones."""
    return sorted(path for path in folder.glob("labels/*/*") if path.is_file() and not path.name.startswith("."))


def _is_never_changed(path: Path) -> bool:
    return path.parent.name == READY_MADE or path.parent.name.startswith(VERSION)


def _together(paths: Iterable[Path]) -> Iterator[list[Path]]:
    """Yield the files of each image together."""
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        by_name.setdefault(split_ending(path.name)[0].removesuffix(".json"), []).append(path)
    yield from by_name.values()


# Reading


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Make the exceptions of ``zipfile`` say which file can't be read."""
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{source}: can't be read as a project ({error}); export or copy it again") from error


def _contents(archive: zipfile.ZipFile, source: Path) -> Contents:
    """Read which files the project has.

    Raises:
        InputError: it isn't a project, has other files than it says, or a file that doesn't belong into a project.
    """
    try:
        if archive.getinfo(CONTENTS).file_size > LONGEST_CONTENTS:
            raise InputError(
                f"{source}: {CONTENTS} is larger than {LONGEST_CONTENTS >> 20} MB; export the project again"
            )
        contents = Contents.model_validate_json(archive.read(CONTENTS))
    except (KeyError, ValidationError) as error:
        raise InputError(
            f"{source}: isn't a project (no {CONTENTS} of this software in it); give a file that `annotations export` "
            "has written"
        ) from error
    names = sorted(archive.namelist())
    if names != sorted([CONTENTS, *contents.files]):
        raise InputError(f"{source}: has other files than its {CONTENTS} lists; export it again")
    if strange := [name for name in contents.files if not _belongs(name)]:
        raise InputError(f"{source}: has {strange[0]!r}, which is no file of a project; export it again")
    return contents


def _belongs(name: str) -> bool:
    """Return whether a file may be in a project under this name: an image, the index, a label or a model."""
    parts = PurePosixPath(name).parts
    if "/".join(parts) != name or any(part == ".." or set(part) & set("\\:\0") for part in parts):
        return False
    is_folder = is_image_folder(parts[0])
    if not is_folder and any(part.startswith(".") for part in parts):
        return False
    match parts:
        case [_, _, *_] if is_folder:
            return True
        case [file]:
            return file == INDEX or is_listed(file) or has_name_of_data(file)
        case ["labels", _, _]:
            return True
        # DICOM files
        case [name, _] if name not in OWN and not split_ending(name)[1]:
            return True
        case ["models", *rest]:
            return any(fnmatchcase("/".join(rest), pattern) for pattern in MODELS)
        case _:
            return False


def _unpack(archive: zipfile.ZipFile, name: str, file: File, folder: Path, source: Path) -> None:
    """Unpack a file, and check that it is as it was.

    Raises:
        InputError: it isn't.
    """
    path = folder / name
    make_folder(path.parent)
    try:
        with archive.open(name) as packed, path.open("xb") as unpacked:
            is_same = _copy(packed, unpacked, file.size) == file
    except FileExistsError as error:
        raise InputError(
            f"{source}: has {name} twice, or in capital and small letters, which this disk can't"
        ) from error
    if not is_same:
        raise InputError(f"{source}: {name} isn't as it was exported; copy or export the project again")
