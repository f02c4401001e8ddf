"""The files in ``labels/final``, where people may put labels by hand."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from lib.core.volumes.formats import split_ending
from lib.core.volumes.image_files import is_label_file

from .label_files import Stamp, crc32_of, stamp_of


class FinalFolder:
    """The folder of current annotations.

    Args:
        folder: ``labels/final``.
        aside: folder for labels that an annotation replaces.
    """

    def __init__(self, folder: Path, aside: Path) -> None:
        self.folder, self.aside = folder, aside
        self._crcs: dict[Path, tuple[Stamp, int]] = {}

    def labels(self) -> Iterator[tuple[str, Path]]:
        """Yield the image id and path of each label, sorted by file name."""
        for name in sorted(os.listdir(self.folder)) if self.folder.is_dir() else ():
            if is_label_file(name):
                yield split_ending(name)[0], self.folder / name

    def crc32(self, path: Path) -> int:
        """Return the CRC-32 of a label's file, here or of a version; read the file only if it has changed.

        Raises:
            OSError: it can't be read.
        """
        stamp = stamp_of(path)
        if path not in self._crcs or self._crcs[path][0] != stamp:
            self._crcs[path] = stamp, crc32_of(path)
        return self._crcs[path][1]

    def place_aside(self, path: Path) -> Path:
        """Return where to keep a label that an annotation replaces."""
        places = (self.aside / f"{n}.{path.name}" if n else self.aside / path.name for n in itertools.count())
        return next(place for place in places if not os.path.lexists(place))
