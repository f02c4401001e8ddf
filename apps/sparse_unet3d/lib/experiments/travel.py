"""Takes what an experiment needs to a rented machine, and what came of it back: one archive each way."""

import io
import os
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from ..core.errors import InputError
from ..core.files import replacing
from .run import COMMIT_FILE, commit

APP = PurePosixPath("apps/sparse_unet3d")

BROUGHT = (PurePosixPath("experiments/results"), PurePosixPath("experiments/work"))
"""What is taken there to be continued, and brought back."""

LEFT = {"__pycache__", "model", "logs", "bin", COMMIT_FILE.name}
"""What stays behind of the app's folder."""


def pack(project: Path, archive: Path) -> None:
    """Write the archive, renamed into place; unpacked elsewhere, ``python apps/sparse_unet3d reproduce`` runs there."""

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = PurePosixPath(entry.name)
        return None if path.is_relative_to(APP) and LEFT & set(path.relative_to(APP).parts) else entry

    with replacing(archive) as beside, tarfile.open(beside, "w:gz") as packed:
        for folder in (APP, *BROUGHT):
            if (project / folder).is_dir():
                packed.add(project / folder, str(folder), filter=chosen)
        text = commit().encode()
        entry = tarfile.TarInfo(str(APP / COMMIT_FILE.name))
        entry.size = len(text)
        packed.addfile(entry, io.BytesIO(text))


def unpack(project: Path, archive: Path) -> int:
    """Take results and unfinished runs out of an archive that was packed elsewhere, where they are newer than here.

    All else in it is left there.

    Returns:
        How many files were taken.

    Raises:
        InputError: the archive isn't one, or isn't whole; what was taken until then is kept.
    """
    taken = 0
    try:
        with tarfile.open(archive) as packed:
            for entry in packed:
                path = PurePosixPath(entry.name)
                if not entry.isfile() or ".." in path.parts or not any(map(path.is_relative_to, BROUGHT)):
                    continue
                here = project / path
                if here.is_file() and here.stat().st_mtime >= entry.mtime:
                    continue
                content = packed.extractfile(entry)
                assert content is not None
                with replacing(here) as beside:
                    beside.write_bytes(content.read())
                os.utime(here, (entry.mtime, entry.mtime))
                taken += 1
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(
            f"{archive}: cannot be read as a whole archive of `reproduce pack` ({error}); {taken} files were taken; "
            "copy it anew and unpack it again"
        ) from error
    return taken
