"""Which versions the archive has: ``labels/archived/IMAGE.json`` in the project folder.

A version without an entry is sent, also after a loss of this file. Sending it twice changes nothing in the archive.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from lib.core.files import write_json

logger = logging.getLogger(__name__)

TAG = "archived"
"""Folder in ``labels``. It holds no label map, so that the datastore sees no label in it."""


class _Content(BaseModel):
    address: str
    versions: set[Annotated[int, Field(ge=1)]]


class Delivered:
    """The versions that the archive has. Only one thread at a time may write."""

    def __init__(self, labels: Path, address: str) -> None:
        """Use the folder ``labels`` of the project, for the archive at ``address``."""
        self._folder, self._address = labels / TAG, address
        self._known: dict[str, frozenset[int]] = {}

    def of(self, image_id: str) -> frozenset[int] | None:
        """Return the versions of an image that the archive has; None if the archive wasn't asked yet."""
        # Another process may have fetched the image since.
        if image_id not in self._known and (read := self._read(image_id)) is not None:
            self._known[image_id] = read
        return self._known.get(image_id)

    def note(self, image_id: str, versions: Iterable[int] = ()) -> None:
        """Note that the archive was asked about an image, and has these versions too.

        Raises:
            OSError: the note can't be written.
        """
        known = (self.of(image_id) or frozenset()).union(versions)
        write_json(self._path(image_id), {"address": self._address, "versions": sorted(known)})
        self._known[image_id] = known

    def _path(self, image_id: str) -> Path:
        return self._folder / f"{image_id}.json"

    def _read(self, image_id: str) -> frozenset[int] | None:
        path = self._path(image_id)
        try:
            content = _Content.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            logger.error("%s: damaged; the archive is asked again which versions it has", path)
            return None
        return frozenset(content.versions) if content.address == self._address else None
