"""The images that a DICOM archive has, as it listed them last: ``archive.json`` in the project folder.

Those that nobody has wanted yet have no files in the folder. Every process that opens the folder reads this list, so
that all agree on which images there are.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from lib.core.files import replacing
from lib.core.volumes.image_files import ImageFiles

from .label_files import NO_FILE, stamp_of

logger = logging.getLogger(__name__)

FILE = "archive.json"

UID = r"[0-9]+(\.[0-9]+)*"
"""A unique identifier of DICOM. As the name of a file it is harmless, and no file of another format has such a name."""

LONGEST_UID = 64


def is_uid(value: object) -> bool:
    """Return whether a value is a unique identifier."""
    return isinstance(value, str) and len(value) <= LONGEST_UID and re.fullmatch(UID, value) is not None


_Uid = Annotated[str, Field(pattern=f"^{UID}$", max_length=LONGEST_UID)]


class _Content(BaseModel):
    address: str
    series: dict[_Uid, _Uid]


class ListedImages:
    """The series of an archive that can be images of a project; an image has its series' unique id as its name."""

    def __init__(self, folder: Path) -> None:
        """Use ``archive.json`` in ``folder``; without it, there is no archive."""
        self._folder, self._path = folder, folder / FILE
        self._read = NO_FILE
        self._series: Mapping[str, str] = {}

    def series(self) -> Mapping[str, str]:
        """Return the unique id of the study of each series."""
        stamp = stamp_of(self._path)
        if stamp != self._read:
            found = self._parsed()
            self._series = found.series if found else {}
            self._read = stamp
        return self._series

    @property
    def address(self) -> str | None:
        """The address of the archive; None if images come from the folder alone."""
        found = self._parsed()
        return found.address if found else None

    def is_missing(self, name: str) -> bool:
        """Tell whether an image is one of the archive, and has no files in the folder yet."""
        return name in self.series() and not (self._folder / name).exists()

    def images(self) -> dict[str, ImageFiles]:
        """Return each image as if none of its files were in the folder."""
        return {name: ImageFiles(self._folder / name, "", ()) for name in self.series()}

    def write(self, address: str, series: Mapping[str, str]) -> bool:
        """Replace the list by what an archive says now; tell whether that is news.

        Args:
            address: of the archive.
            series: the unique id of the study of each series.

        Raises:
            OSError: the file can't be written.
        """
        if self._path.exists() and dict(self.series()) == dict(series):
            return False
        content = _Content(address=address, series=dict(sorted(series.items())))
        with replacing(self._path) as beside:
            beside.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return True

    def _parsed(self) -> _Content | None:
        try:
            return _Content.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            logger.error("%s: damaged; the server writes it anew when it has asked the archive", self._path)
            return None
