"""Takes what an experiment needs to a rented machine, and what came of it back: one archive each way."""

import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..core.errors import InputError
from ..core.files import replacing
from .run import COMMIT_FILE, RECORDS, SETTINGS, commit

APP = PurePosixPath("apps/sparse_unet3d")

BROUGHT = (PurePosixPath("experiments/results"), PurePosixPath("experiments/work"))
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
        InputError: the folder has none of these.
    """
    parts = [data.resolve() / part for part in VOLUMES] if data else []
    for part in parts:
        if not part.is_dir():
            raise InputError(f"--data: {part}: no such folder; give a folder with {' and '.join(VOLUMES)}")

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = PurePosixPath(entry.name)
        return None if path.is_relative_to(APP) and LEFT & set(path.relative_to(APP).parts) else entry

    with replacing(archive) as beside, tarfile.open(beside, "w:gz") as packed:
        for folder in (APP, *BROUGHT):
            if (project / folder).is_dir():
                packed.add(project / folder, str(folder), filter=chosen)
        for part in parts:
            packed.add(part, str(PurePosixPath("data", part.parent.name, part.name)))
        text = commit().encode()
        entry = tarfile.TarInfo(str(APP / COMMIT_FILE.name))
        entry.size = len(text)
        packed.addfile(entry, io.BytesIO(text))


def unpack(project: Path, archive: Path) -> int:
    """Take results and unfinished runs out of an archive that was packed elsewhere, where they are newer than here.

    A run that was begun here with other settings since is left as it is; so is all else in the archive. What was begun
    here of a run whose record comes back is removed.

    Returns:
        How many files were taken.

    Raises:
        InputError: the archive isn't one, or isn't whole; what was taken until then is kept.
    """
    taken = 0
    try:
        others = _begun_otherwise(project, archive)
        for path, mtime, content in _brought(archive):
            here = project / path
            if path.parent in others or (here.is_file() and here.stat().st_mtime >= mtime):
                continue
            with replacing(here) as beside:
                beside.write_bytes(content)
            os.utime(here, (mtime, mtime))
            taken += 1
            if path.parent.name == RECORDS:
                shutil.rmtree(here.parents[1] / path.stem, ignore_errors=True)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(
            f"{archive}: cannot be read as a whole archive of `reproduce pack` ({error}); {taken} files were taken; "
            "copy it anew and unpack it again"
        ) from error
    return taken


def _brought(archive: Path) -> Iterator[tuple[PurePosixPath, float, bytes]]:
    """Yield path, time of the last change and content of the files that may be taken."""
    with tarfile.open(archive) as packed:
        for entry in packed:
            path = PurePosixPath(entry.name)
            if entry.isfile() and ".." not in path.parts and any(map(path.is_relative_to, BROUGHT)):
                content = packed.extractfile(entry)
                assert content is not None
                yield path, entry.mtime, content.read()


def _begun_otherwise(project: Path, archive: Path) -> set[PurePosixPath]:
    """Return the folders of runs that were begun with other settings here than there."""
    return {
        path.parent
        for path, _, content in _brought(archive)
        if path.name == SETTINGS and (project / path).is_file() and (project / path).read_bytes() != content
    }
