"""A label image of an OME-Zarr image that is written box by box. Boxes survive a kill, and a loss of power."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.files import make_folder, sync_file, sync_folder, write_json

from .boxes import boxes
from .ome_zarr import Level, OmeZarrSource
from .ome_zarr_labels import create_level, label_attributes, nearest_voxels, replace_folder
from .source import Box

CHUNK = 128
"""Largest side of the chunks, in voxels. Boxes begin at multiples of it, so that no chunk is written twice."""

_RECORD, _DONE = "settings.json", "done"
"""File of the settings, and folder with a file for each box that is written; both are gone when it is complete."""


class GrowingLabels:
    """A label image that is made in a folder beside its place.

    It has the level of the image that is used, as level 0, and the coarser ones. Its attributes say what it is made
    from and, once it is complete, how many voxels have each value.

    Attributes:
        settings: those that it was begun with.
        voxels: how many voxels have each value; None until it is complete.
    """

    def __init__(self, place: Path, source: OmeZarrSource, made_from: Any, settings: Mapping[str, Any]) -> None:
        """Find out what is there.

        Args:
            place: where the label image goes when it is complete, ``NAME.ome.zarr``.
            source: the image.
            made_from: a JSON value. A label image that is made from something else is begun again.
            settings: JSON values that boxes depend on. A label image that goes on keeps its earlier ones.
        """
        self.place, self.source, self._made_from = place, source, made_from
        self.folder = place.with_name(f".{place.name}.unfinished")
        self._record = self.folder / _RECORD
        self._letters = "".join(letter for letter in source.levels[0].letters if letter in "xyz")
        self._levels = source.levels[source.level :]
        self._attributes_file = ".zattrs" if source.image.zarr_format == 2 else "zarr.json"
        begun = _read(self._record)
        self._goes_on = bool(begun) and self._creator(self.folder).get("made_from") == made_from
        self.settings = begun if self._goes_on else dict(settings)
        self.voxels: dict[int, int] | None = None
        for folder in (place, self.folder):
            creator = self._creator(folder)
            if creator.get("made_from") == made_from and "voxels" in creator:
                self.voxels = {int(value): count for value, count in creator["voxels"].items()}

    def begin(self, names: Mapping[int, str], colors: Mapping[int, tuple[int, int, int]]) -> None:
        """Create the label image, unless it goes on.

        Args:
            names: what the values mean.
            colors: (red, green, blue) of the values, 0 to 255.

        Raises:
            OSError: it can't be written.
        """
        import zarr  # only there where ``source`` could be opened

        if not self._goes_on:
            shutil.rmtree(self.folder, ignore_errors=True)
            make_folder(self.folder)
            store = zarr.storage.LocalStore(self.folder)
            group: Any = zarr.open_group(store, mode="w", zarr_format=cast(Any, self.source.image.zarr_format))
            name = self.place.name.split(".")[0]
            attributes = label_attributes(name, self.source, self._levels, self._letters, names, colors, None)
            attributes["_creator"] = {**attributes["_creator"], "made_from": self._made_from}
            group.attrs.put(attributes)
            for number, level in enumerate(self._levels):
                shape = tuple(level.sizes[letter] for letter in self._letters)
                create_level(group, str(number), self._letters, shape, tuple(min(CHUNK, size) for size in shape))
            _sync(self.folder)
            (self.folder / _DONE).mkdir()
            # Written last: without it, the label image is begun again.
            write_json(self._record, self.settings)
            self._goes_on = True
        self._group = zarr.open_group(zarr.storage.LocalStore(self.folder), mode="r+")

    def join(self) -> None:
        """Help with a label image that another process has begun, which may be on another computer.

        Raises:
            InputError: it isn't there, or has been begun again meanwhile.
            OSError: it can't be read.
        """
        if not self._goes_on:
            raise InputError(
                f"{self.folder}: no unfinished label image that is made from this image by this model; another command "
                "may have begun it again, or this computer doesn't see the folder that the command was started with"
            )
        self.begin({}, {})

    def is_done(self, box: Box) -> bool:
        """Return whether a box is written and noted."""
        return self._marker(box).exists()

    def write(self, box: Box, labels: NDArray[np.uint8]) -> dict[int, int]:
        """Write the labels (X, Y, Z) of a box that begins at multiples of ``CHUNK``. It counts as done after ``note``.

        Returns:
            How many voxels have each value.

        Raises:
            OSError: it can't be written.
        """
        array = cast(Any, self._group["0"])
        array[self._in_file(box)] = self._as_in_file(labels)
        sides = zip(self._in_file(box), array.chunks, strict=True)
        chunks = [range(side.start // chunk, -(-side.stop // chunk)) for side, chunk in sides]
        folders = set()
        for numbers in np.ndindex(*map(len, chunks)):
            key = array.metadata.encode_chunk_key(tuple(chunk[n] for chunk, n in zip(chunks, numbers, strict=True)))
            path = self.folder / "0" / key
            if path.exists():
                sync_file(path)
                folders |= {path.parent, *path.parent.relative_to(self.folder).parents}
        for folder in folders:
            sync_folder(self.folder / folder)
        values, counts = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def note(self, box: Box, voxels: Mapping[int, int]) -> None:
        """Note that a box is done.

        Args:
            box: a box that is written.
            voxels: how many of its voxels have each value.

        Raises:
            OSError: that can't be written.
        """
        write_json(self._marker(box), voxels)

    def finish(self) -> None:
        """Write the coarser levels, and rename the label image into its place.

        Raises:
            OSError: it can't be written.
        """
        if self.voxels is None:
            for number, level in enumerate(self._levels[1:], start=1):
                self._write_coarser(str(number), level)
            # zarr leaves these when a process is killed while it writes a chunk.
            for path in self.folder.rglob("*.partial"):
                path.unlink(missing_ok=True)
            _sync(self.folder)
            total = Counter[str]()
            for marker in (self.folder / _DONE).iterdir():
                total.update(_read(marker))
            self.voxels = {int(value): total[value] for value in sorted(total)}
            self._add_voxels()
        if self.folder.exists() and self._creator(self.folder).get("made_from") == self._made_from:
            self._record.unlink(missing_ok=True)
            shutil.rmtree(self.folder / _DONE, ignore_errors=True)
            replace_folder(self.folder, self.place)

    def _write_coarser(self, path: str, level: Level) -> None:
        nearest = nearest_voxels(level, self._levels[0])
        base, coarser = (cast(Any, self._group[number]) for number in ("0", path))
        for box in boxes(level.shape, (CHUNK, CHUNK, CHUNK)):
            along = [nearest[letter][side] for letter, side in zip("xyz", box, strict=True)]
            x, y, z = (slice(int(index.min()), int(index.max()) + 1) for index in along)
            labels = base[self._in_file((x, y, z))].transpose([self._letters.index(letter) for letter in "xyz"])
            labels = labels[np.ix_(*(index - index.min() for index in along))]
            coarser[self._in_file(box)] = self._as_in_file(labels)

    def _creator(self, folder: Path) -> dict[str, Any]:
        content = _read(folder / self._attributes_file)
        attributes = content if self.source.image.zarr_format == 2 else content.get("attributes", {})
        creator = attributes.get("_creator")
        return creator if isinstance(creator, dict) else {}

    def _add_voxels(self) -> None:
        file = self.folder / self._attributes_file
        content = json.loads(file.read_text(encoding="utf-8"))
        attributes = content if self.source.image.zarr_format == 2 else content["attributes"]
        attributes["_creator"]["voxels"] = self.voxels
        write_json(file, content)

    def _marker(self, box: Box) -> Path:
        return self.folder / _DONE / f"{'-'.join(str(side.start) for side in box)}.json"

    def _in_file(self, box: Box) -> tuple[slice, ...]:
        return tuple(box["xyz".index(letter)] for letter in self._letters)

    def _as_in_file(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return labels.transpose(["xyz".index(letter) for letter in self._letters])


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sync(folder: Path) -> None:
    """Make a folder and all in it survive a loss of power."""
    for path in folder.rglob("*"):
        sync_folder(path) if path.is_dir() else sync_file(path)
    sync_folder(folder)
