"""A folder for all temporary files of the server: uploads, results and archives.

It is removed when the server ends, or by the next server if this one is ended by a signal.
"""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

from lib.core.processes import has_ended, this_process

logger = logging.getLogger(__name__)

PREFIX = "sparse_unet3d-"
"""Beginning of the folder's name; the name of the process follows."""


def use_own_folder() -> None:
    """Let this process and those that it starts keep their temporary files in a new folder.

    What servers that were killed have left is removed.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{PREFIX}*"):
        if has_ended(left.name.removeprefix(PREFIX)):
            logger.info("%s: removed; the server that used it has ended", left)
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"{PREFIX}{this_process()}-", dir=place)
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    atexit.register(remove_own_folder)


def remove_own_folder() -> None:
    """Remove the folder, as when the process ends."""
    if tempfile.tempdir and Path(tempfile.tempdir).name.startswith(f"{PREFIX}{this_process()}-"):
        shutil.rmtree(tempfile.tempdir, ignore_errors=True)
