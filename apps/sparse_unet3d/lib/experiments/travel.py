"""Takes what an experiment needs to a rented machine, and what came of it back: one archive each way."""

import gzip
import io
import json
import math
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from ..core.errors import InputError
from ..core.files import replacing
from .run import COMMIT_FILE, DENSE, RECORDS, SETTINGS, Record, commit

APP = PurePosixPath("apps/sparse_unet3d")

WORK = PurePosixPath("experiments/work")

BROUGHT = (PurePosixPath("experiments/results"), WORK)
"""What is taken there to be continued, and brought back."""

VOLUMES = ("images", "labels")

LEFT = {"__pycache__", "model", "logs", "bin", COMMIT_FILE.name}
"""What stays behind of the app's folder."""


def pack(project: Path, archive: Path, data: Path | None = None) -> None:
    """Write the archive, renamed into place; unpacked elsewhere, ``python apps/sparse_unet3d reproduce`` runs there.

    Args:
        project: what is packed.
        archive: to be written.
        data: a folder with ``images/`` and ``labels/``, which becomes ``data/NAME``; None: none.

    Raises:
        InputError: the folder has none of these, or a link leads to nothing.
    """
    parts = [data.resolve() / part for part in VOLUMES] if data else []
    for part in parts:
        if not part.is_dir():
            raise InputError(f"--data: {part}: no such folder; give a folder with {' and '.join(VOLUMES)}")

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = PurePosixPath(entry.name)
        # With a leading dot: locks, and files that are being written.
        stays = path.name.startswith(".") or (path.is_relative_to(APP) and LEFT & set(path.relative_to(APP).parts))
        return None if stays else entry

    try:
        # There, links would lead to nothing.
        with replacing(archive) as beside, tarfile.open(beside, "w:gz", dereference=True) as packed:
            for folder in (APP, *BROUGHT):
                if (project / folder).is_dir():
                    packed.add(project / folder, str(folder), filter=chosen)
            for part in parts:
                packed.add(part, str(PurePosixPath("data", part.parent.name, part.name)))
            text = commit().encode()
            entry = tarfile.TarInfo(str(APP / COMMIT_FILE.name))
            entry.size = len(text)
            packed.addfile(entry, io.BytesIO(text))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: not there, or a link to nothing; remove it or mend it") from error


def unpack(project: Path, archive: Path) -> int:
    """Take results and unfinished runs out of an archive that was packed elsewhere, once all of it was read.

    A finished run is taken where there is none here or one of an earlier day, and what was begun of it here is removed.
    A begun run is taken as a whole, where it isn't finished here and what was begun here is older. What was begun here
    with other settings stays; so that a run stays is printed. All else is taken where it is newer than here.

    Returns:
        How many files were taken.

    Raises:
        InputError: the archive isn't one, isn't whole or cannot be read, and nothing was taken; or a file cannot be
            written, and what was taken until then is kept.
    """
    taken = 0
    try:
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=project) as folder:
            there = Path(folder)
            _extract(archive, there)
            chosen = sorted(_chosen(project, there))
            for path in chosen:
                if path.name == SETTINGS:
                    shutil.rmtree(project / path.parent, ignore_errors=True)
            for path in chosen:
                with replacing(project / path) as beside:
                    shutil.copy2(there / path, beside)
                taken += 1
                begun = (project / path).parents[1] / path.stem
                if _is_record(path) and _read(begun / SETTINGS) == _read(there / path)["settings"]:
                    shutil.rmtree(begun)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(
            f"{archive}: cannot be unpacked ({error}), {taken} files were taken; copy it anew if it isn't whole, make "
            "room if there is none, and unpack it again"
        ) from error
    return taken


def _extract(archive: Path, there: Path) -> None:
    """Write the files that may be taken to a folder, as they are below the project."""
    with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r:") as packed:
        for entry in packed:
            path = PurePosixPath(entry.name)
            is_fit = entry.isfile() and ".." not in path.parts and not path.name.startswith(".")
            if is_fit and any(map(path.is_relative_to, BROUGHT)):
                packed.extract(entry, there, set_attrs=False)
                os.utime(there / path, (entry.mtime, entry.mtime))
        # The checksum comes after all that tar reads.
        while content.read(io.DEFAULT_BUFFER_SIZE):
            pass


def _chosen(project: Path, there: Path) -> set[Path]:
    """Return the files to be taken, relative to both folders."""
    left = {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
    chosen = set[Path]()
    for path in sorted(path for path in left if _is_record(path) or path.name == SETTINGS):
        if not _is_record(path):
            of_run = {file for file in left if file.is_relative_to(path.parent)}
        elif path.stem.startswith("figure3-"):
            of_run = {path, path.parents[1] / DENSE} & left
        else:
            of_run = {path}
        left -= of_run
        if _is_taken(path, project, there):
            chosen |= of_run
    return chosen | {
        path
        for path in left
        if _last_change(there / path) > _last_change(project / path)
        and not any((project / folder / SETTINGS).is_file() for folder in path.parents)
    }


def _is_taken(path: Path, project: Path, there: Path) -> bool:
    """Return whether a run is taken that came, finished or begun: ``path`` is of its record or of its settings."""
    run = path.parents[1] / path.stem if _is_record(path) else path.parent
    record = run.parent / RECORDS / f"{run.name}.json"
    theirs, ours, begun = map(_read, (there / path, project / record, project / run / SETTINGS))
    is_record = path == record
    settings = theirs.get("settings") if is_record else theirs
    is_whole = settings and (not is_record or (theirs.get("key") == run.name and isinstance(theirs.get("date"), str)))
    if not is_whole or theirs == ours:
        return False
    if begun and begun != settings:
        print(f"{project / run} stays: it was begun with other settings; remove it to take the archive's")
        return False
    if not is_record:
        return _last_change(there / run) > _last_change(project / run) if begun else settings != ours.get("settings")
    # By its own date, as copying changes that of a file. What was begun here shows that a record here counts no more.
    if begun or theirs["date"] > ours.get("date", ""):
        return True
    print(f"{project / record} stays: the archive's is of no later day; remove it to take that")
    return False


def _is_record(path: Path) -> bool:
    return path.is_relative_to(WORK) and path.parent.name == RECORDS and path.suffix == ".json"


def _read(path: Path) -> Record:
    """Return the JSON object in a file; an empty one if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        content = None
    return content if isinstance(content, dict) else {}


def _last_change(path: Path) -> float:
    """Return when a file, or any in a folder, was changed last."""
    return max((file.stat().st_mtime for file in (path, *path.rglob("*")) if file.is_file()), default=-math.inf)
