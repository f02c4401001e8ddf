"""A ZIP file of images and labels, for download."""

import errno
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def write_archive(files: Sequence[tuple[Path, str]], metadata: str) -> str:
    """Write files into a ZIP file in the folder for temporary files; return its path.

    Args:
        files: each with its name in the ZIP file. They are copied as they are, because they are compressed already.
        metadata: content of ``metadata.json``.

    Raises:
        OSError: a file can't be read, or the ZIP file would take more than half of the free space, the rest of which
            submissions may need.
    """
    size = sum(path.stat().st_size for path, _ in files)
    if size > shutil.disk_usage(tempfile.gettempdir()).free // 2:
        raise OSError(errno.ENOSPC, f"a ZIP file of {size // 10**6} MB takes more than half of the free space")
    with tempfile.NamedTemporaryFile(prefix="dataset-", suffix=".zip", delete=False) as file:
        try:
            with zipfile.ZipFile(file, "w", strict_timestamps=False) as archive:
                for path, name in files:
                    archive.write(path, name)
                archive.writestr("metadata.json", metadata)
        except BaseException:
            file.close()
            with suppress(OSError):
                os.unlink(file.name)
            raise
    return file.name
