"""MONAI Label's index of the folder, ``datastore_v2.json``, and the journal of what has changed since."""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel

from lib.core.files import replace, replacing, sync_folder

from .journal import Journal
from .stored_info import image_info, label_info, parse_json

logger = logging.getLogger(__name__)

Objects = Mapping[str, ImageLabelModel]
"""The images by id, each with its labels by tag. Nothing in it is ever changed: who changes something makes another."""

SMALL = 2**20
"""Bytes up to which a journal stays however small the index is."""


class Index:
    """The index on the disk. All methods that write need the folder's lock.

    Attributes:
        said: what it said when it was last read or written.
        name: what MONAI Label calls the project.
        description: of the project, for MONAI Label.
        journal: what has changed since the file was written.
        damaged: whether the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        """Use the file ``path``, which need not exist yet."""
        self._path = path
        self._seen: tuple[int, int] | None = None
        self.said: Objects = {}
        self.name, self.description = "new-dataset", "New Dataset"
        self.journal = Journal(path.with_suffix(".journal"))
        self.damaged = False

    def read(self) -> None:
        """Read what has changed on the disk."""
        if not self._is_new():
            self.said = _with_changes(self.said, self.journal.read())
        while self._is_new():
            self._seen = self._stamp()
            self.journal.restart()
            # If somebody writes the index now, the journal may repeat what the index already says.
            self.said = _with_changes(self._read_file(), self.journal.read())

    def write(self, objects: Objects) -> None:
        """Write the index anew, and begin an empty journal."""
        if self.damaged and self._path.exists():
            aside = self._path.with_name(f"{self._path.stem}.damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}.json")
            replace(self._path, aside)
            sync_folder(aside.parent)
            logger.error("The damaged index is kept as %s", aside)
        self.damaged = False
        # Indented JSON takes many times as long, while others wait for the lock.
        with replacing(self._path) as beside:
            beside.write_text(json.dumps(self.content(objects)), encoding="utf-8")
        self.journal.begin_new()
        self._seen, self.said = self._stamp(), objects

    def content(self, objects: Objects) -> dict[str, Any]:
        """Return what to write as the index, in MONAI Label's form."""
        head = {"name": self.name, "description": self.description, "images_dir": ".", "labels_dir": "labels"}
        return {**head, "objects": {name: _plain(entry) for name, entry in objects.items()}}

    def files(self) -> tuple[str, str]:
        """Return the names of its files."""
        return self._path.name, self.journal.name

    def has_news(self) -> bool:
        """Tell whether there is something to read."""
        return self._is_new() or self.journal.has_news()

    def is_outgrown(self) -> bool:
        """Tell whether the journal is longer than the index, so that writing the index costs little more."""
        try:
            return self.journal.size() > max(SMALL, self._path.stat().st_size)
        except FileNotFoundError:
            return True

    def _is_new(self) -> bool:
        return self._seen is None or self._seen != self._stamp() or self.journal.is_other()

    def _stamp(self) -> tuple[int, int]:
        try:
            state = self._path.stat()
            return state.st_mtime_ns, state.st_ino
        except FileNotFoundError:
            return 0, 0

    def _read_file(self) -> Objects:
        self.damaged = False
        try:
            content = parse_json(self._path.read_bytes())
            self.name, self.description = str(content["name"]), str(content["description"])
            entries = dict(content["objects"])
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            logger.error("The index %s is damaged and will be rebuilt from the files: %r", self._path, error)
            self.damaged = True
            return {}
        return _with_changes({}, [entries])


def difference(before: Objects, after: Objects) -> dict[str, Any]:
    """Return what has to be set in ``before`` to make it ``after``: by image, its ``image`` and its changed ``labels``.

    None stands for an image or label that is gone.
    """
    changes: dict[str, Any] = {}
    for name in [*after, *(name for name in before if name not in after)]:
        old, new = before.get(name), after.get(name)
        if old is new:
            continue
        if new is None:
            changes[name] = None
            continue
        change: dict[str, Any] = {}
        if old is None or old.image != new.image:
            change["image"] = new.image.model_dump()
        had = old.labels if old else {}
        labels = {tag: label.model_dump() for tag, label in new.labels.items() if had.get(tag) != label}
        if labels := {**labels, **dict.fromkeys(had.keys() - new.labels.keys())}:
            change["labels"] = labels
        if change:
            changes[name] = change
    return changes


def _plain(entry: ImageLabelModel) -> dict[str, Any]:
    """Return what ``model_dump`` does, without a copy of all that is known of each label."""
    image, labels = entry.image, entry.labels
    return {
        "image": {"ext": image.ext, "info": image.info},
        "labels": {tag: {"ext": label.ext, "info": label.info} for tag, label in labels.items()},
    }


def _with_changes(objects: Objects, changes: list[dict[str, Any]]) -> Objects:
    """Return the index after changes as of ``difference``; those that are damaged are left out."""
    if not changes:
        return objects
    changed = dict(objects)
    for change in changes:
        for name, entry in change.items():
            if entry is None:
                changed.pop(name, None)
                continue
            try:
                _change(changed, name, entry)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                logger.error("What the index says of %r is damaged and will be read from the files: %r", name, error)
    return dict(sorted(changed.items()))


def _change(objects: dict[str, ImageLabelModel], name: str, change: Mapping[str, Any]) -> None:
    """Change what the index says of an image.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the change is damaged; nothing is changed.
    """
    old = objects.get(name)
    image, labels = old and old.image, dict(old.labels) if old else {}
    if "image" in change:
        image = _data(change["image"], image_info, name)
    for tag, label in change.get("labels", {}).items():
        if label is None:
            labels.pop(tag, None)
        else:
            labels[tag] = _data(label, label_info, f"{name}, {tag}")
    if image:
        objects[name] = ImageLabelModel(image=image, labels=labels)


def _data(stored: Mapping[str, Any], check: Callable[[object, str], dict[str, Any]], where: str) -> DataModel:
    return DataModel(ext=stored["ext"], info=check(stored.get("info", {}), where))
