"""A change of files and of the index that happens as a whole or not at all."""

import json
import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.files import make_folder, name_beside, replace, sync_file, sync_folder
from lib.core.volumes.nifti import NiftiSource

from .index import Index, Objects, difference
from .journal import Undo
from .label_files import NO_FILE, Digests, Stamp, digests_of, stamp_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A label file that was written beside its place.

    Attributes:
        path: where it is.
        digests: of its content.
    """

    path: Path
    digests: Digests


@dataclass(frozen=True)
class _Step:
    """A renaming, with the stamp of the file that it replaces."""

    source: Path
    target: Path
    stamp: Stamp


class Change:
    """What is to be changed. Files are written beside their places; nothing else happens before ``carry_out``.

    Attributes:
        objects: what the index is to say.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare a change of the studies folder ``folder``."""
        self._folder = folder
        self.objects: dict[str, ImageLabelModel] = {}
        self._written: list[Path] = []
        self._away: list[tuple[Path, Path]] = []
        self._into_place: list[tuple[Path, Path]] = []

    # Before the folder's lock is taken, because writing large files takes long

    def write_label(self, folder: Path, array: NDArray[np.uint8], affine: NDArray[np.float64]) -> Written:
        """Write a label map (X, Y, Z) into a folder, under a name of its own."""
        path = self._name_in(folder, ".nii.gz")
        NiftiSource.write(path, array, affine)
        sync_file(path)
        return Written(path, digests_of(path))

    def copy(self, source: Path, folder: Path, ending: str) -> Path:
        """Copy a file into a folder, under a name of its own."""
        path = self._name_in(folder, ending)
        shutil.copyfile(source, path)
        sync_file(path)
        return path

    def _name_in(self, folder: Path, ending: str) -> Path:
        make_folder(folder)
        self._written.append(name_beside(folder / f"x{ending}"))
        return self._written[-1]

    def discard(self) -> None:
        """Remove what was written and isn't in its place."""
        _remove(self._written)

    # While the lock is held

    def begin(self, objects: Objects) -> None:
        """Start from what there is now."""
        self.objects = dict(objects)

    def put(self, written: Path, target: Path) -> None:
        """Rename a file that was written to its place, over another one if there is one."""
        self._into_place.append((written, target))

    def put_json(self, target: Path, value: object) -> None:
        """Write a file of JSON."""
        path = self._name_in(target.parent, ".json")
        path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        sync_file(path)
        self.put(path, target)

    def move_away(self, path: Path, place: Path) -> None:
        """Rename a file to a place where there is none, before others are put into their places."""
        self._away.append((path, place))

    def set_image(self, image_id: str, image: DataModel) -> None:
        """Set what the index says of an image, but for its labels."""
        known = self.objects.get(image_id)
        self.objects[image_id] = ImageLabelModel(image=image, labels=known.labels if known else {})

    def set_label(self, image_id: str, tag: str, label: DataModel | None) -> None:
        """Set what the index says of a label; None: that there is none."""
        entry = self.objects[image_id]
        labels = {of: known for of, known in entry.labels.items() if of != tag}
        self.objects[image_id] = ImageLabelModel(image=entry.image, labels=labels | ({tag: label} if label else {}))

    def carry_out(self, index: Index) -> None:
        """Change the files and the index.

        On any exception nothing has changed; what can't be undone at once is undone before the next change.

        Raises:
            OSError: the disk failed.
            InputError: somebody put a file into one of the places just now.
        """
        said = difference(index.said, self.objects)
        if not (said or self._away or self._into_place):
            return
        steps, undo, kept = list[_Step](), Undo(), list[Path]()
        done = 0
        try:
            self._plan(steps, undo, kept)
            if steps:
                index.journal.begin(undo)
            for step in steps:
                if stamp_of(step.target) != step.stamp:
                    raise InputError(f"{step.target}: somebody else wrote this file just now; do it again")
                done += 1
                replace(step.source, step.target)
            for folder in {path.parent for step in steps for path in (step.source, step.target)}:
                sync_folder(folder)
            index.journal.complete(said)
            index.said = self.objects
        except BaseException:
            self._undo(index, undo[:done], kept)
            raise
        _remove(kept)

    def _undo(self, index: Index, done: Undo, kept: list[Path]) -> None:
        try:
            index.journal.undo(done)
        except Exception as error:
            logger.error("%s: what a failed change left will be undone before the next one: %r", self._folder, error)
        else:
            _remove(kept)

    def _plan(self, steps: list[_Step], undo: Undo, kept: list[Path]) -> None:
        """Keep the files that will be replaced, and write down what to do.

        Args:
            steps: the renamings are added here.
            undo: for each of them, how to undo it is added here.
            kept: what to remove at the end is added here.
        """
        for path, place in self._away:
            make_folder(place.parent)
            steps.append(_Step(path, place, NO_FILE))
            undo.append((self._name(path), self._name(place)))
        away = {step.source for step in steps}
        folders = set()
        for written, target in self._into_place:
            make_folder(target.parent)
            beside: Path | None = None
            if os.path.lexists(target) and target not in away:
                steps.append(_Step(written, target, stamp_of(target)))
                kept.append(beside := name_beside(target))
                _keep(target, beside)
                folders.add(target.parent)
            else:
                steps.append(_Step(written, target, NO_FILE))
            undo.append((self._name(target), self._name(beside) if beside else None))
        for folder in folders:
            sync_folder(folder)

    def _name(self, path: Path) -> str:
        """Return a path below the folder, as the journal has it."""
        return path.relative_to(self._folder).as_posix()


def _keep(path: Path, beside: Path) -> None:
    """Give a file a second name, which it keeps when another file takes its place."""
    try:
        os.link(path, beside)
    except OSError:
        # Some file systems have no links.
        shutil.copy2(path, beside)
        sync_file(beside)


def _remove(paths: list[Path]) -> None:
    """Remove files that nobody needs; what can't be removed now is removed at the next start."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
