"""Copies of images for 3D Slicer, in formats that it can't open, or not with their voxel size."""

import json
import shutil
import threading
import zlib
from collections.abc import Collection
from pathlib import Path

from lib.core.errors import InputError
from lib.core.files import remove_abandoned, replacing
from lib.core.volumes.budget import memory_for
from lib.core.volumes.formats import file_of
from lib.core.volumes.image_files import with_data_file
from lib.core.volumes.nrrd import NrrdSource
from lib.core.volumes.reading import open_image
from lib.core.volumes.voxel_size import size_without_metadata, wanted_spacing

from .label_files import stamp_of

FOLDER = ".slicer"
"""Folder of the copies, in the studies folder; its files can be removed at any time."""

MADE_FROM = "made_from"
"""Field of a copy that changes with the image."""


class SlicerCopies:
    """NRRD files of the same voxels and geometry, each made when it is first wanted and when its image has changed."""

    def __init__(self, studies: Path) -> None:
        """Keep the copies in the studies folder ``studies``."""
        self._folder = studies / FOLDER
        self._lock = threading.Lock()

    def of(self, image_id: str, path: Path) -> Path:
        """Return the copy of an image.

        Raises:
            InputError: the image can't be read.
            OSError: the copy can't be written.
        """
        copy = self._folder / f"{image_id}.nrrd"
        state = [*map(stamp_of, with_data_file(file_of(path))), size_without_metadata(), wanted_spacing()]
        made_from = f"{zlib.crc32(json.dumps(state).encode()):08x}"
        # Several clients may ask for a large image at once.
        with self._lock:
            if _made_from(copy) != made_from:
                source = open_image(path)
                with memory_for(source), replacing(copy) as beside:
                    NrrdSource.write_image(beside, source.read(), source.geometry.affine, {MADE_FROM: made_from})
        return copy

    def tidy(self, images: Collection[str]) -> None:
        """Remove incomplete copies, and those of other images."""
        if not self._folder.is_dir():
            return
        remove_abandoned(self._folder)
        for path in self._folder.glob("*.nrrd"):
            if path.stem not in images:
                path.unlink(missing_ok=True)
        if not images:
            shutil.rmtree(self._folder, ignore_errors=True)


def _made_from(copy: Path) -> str | None:
    """Return what a copy was made from; None if there is none, or it is damaged."""
    try:
        return NrrdSource(copy).fields.get(MADE_FROM)
    except InputError:
        return None
