"""Takes what an experiment needs to a rented machine, and what came of it back: one archive each way."""

import tarfile
from pathlib import Path, PurePosixPath

from ..core.errors import InputError

TAKEN = ("apps", "experiments")
"""Folders of the project: the software; finished runs and those that are to be continued."""

BROUGHT = ("experiments/results", "experiments/work")
"""What is taken out of an archive that comes back."""

LEFT = {"__pycache__", "model", "logs", "bin"}
"""Folders that stay behind."""


def pack(project: Path, archive: Path) -> None:
    """Write the archive; unpacked elsewhere, ``python apps/sparse_unet3d reproduce`` runs there."""

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if LEFT & set(PurePosixPath(entry.name).parts) else entry

    with tarfile.open(archive, "w:gz") as packed:
        for folder in TAKEN:
            packed.add(project / folder, folder, filter=chosen)


def unpack(project: Path, archive: Path) -> int:
    """Take results and unfinished runs out of an archive that was packed elsewhere; all else in it is left there.

    Returns:
        How many files were taken.

    Raises:
        InputError: the archive isn't one.
    """
    try:
        with tarfile.open(archive) as packed:
            entries = [
                entry
                for entry in packed.getmembers()
                if entry.isfile() and any(PurePosixPath(entry.name).is_relative_to(folder) for folder in BROUGHT)
            ]
            packed.extractall(project, entries, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{archive}: cannot be read as an archive of `reproduce pack` ({error})") from error
    return len(entries)
