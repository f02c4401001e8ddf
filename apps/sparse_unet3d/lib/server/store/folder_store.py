"""Images and labels in a folder, and MONAI Label's index of them.

Unlike MONAI Label's own ``LocalDatastore``, this one writes nothing when it is opened, and makes each change as a whole
or not at all. Several threads and processes may change it, and it rebuilds a lost or damaged index from the files.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from lib.core.files import remove_abandoned
from lib.core.locking import OwnedLock
from lib.core.volumes.formats import endings, split_ending
from lib.core.volumes.image_files import ImageFiles, images_among, is_label_file, is_unicode
from lib.server.records import LabelInfo
from lib.server.slicer.replies import not_found

from .change import Change, Written
from .index import Index, Objects
from .label_files import Digests
from .listed_images import ListedImages
from .stored_info import read_label_info
from .watching import watch_folder

logger = logging.getLogger(__name__)

INDEX = "datastore_v2.json"

READY_MADE = "ready_made"
"""Folder in ``labels`` of the files that people put into ``labels/final``. They are kept, and belong to no image."""


class FolderStore(LocalDatastore):
    """Images in a folder, labels by tag in ``labels/TAG/``, and label info in ``labels/TAG/ID.json``.

    ``core.volumes.image_files`` decides which files make up one image.

    Opening the store writes nothing, so a training process may read while the server writes. Only the server calls
    ``serve``. Each change, by a thread or a process, holds the lock and first reads the newest index. In memory, what
    the index says is replaced as a whole when a change is complete, so threads that read need no lock.
    """

    def __init__(self, studies: str) -> None:
        """Open the folder ``studies``."""
        self._index = Index(Path(studies, INDEX))
        self.listed = ListedImages(Path(studies))
        self._faults: dict[str, str] = {}
        self._orphans: dict[str, list[str]] = {}
        super().__init__(
            studies,
            datastore_config=INDEX,
            extensions=[f"*{ending}" for ending in endings()],
            auto_reload=False,
            read_only=True,
        )
        self._lock = OwnedLock(Path(self._lock_file), f"the datastore {studies}")
        self._datastore.objects = self._scanned(trust_index=True)

    def serve(self, watch: bool) -> None:
        """Make the index agree with the files, and keep it up to date.

        Args:
            watch: whether to notice files that others add or remove.

        Raises:
            Locked: another process has been changing the folder for too long.
        """
        with self._lock.hold():
            self._catch_up()
            labels = Path(self._datastore.label_path(None))
            for folder in (Path(self._datastore_path), labels, *labels.iterdir()):
                remove_abandoned(folder)
            self._datastore.objects = self._scanned(trust_index=False)
            self._settle_all(starting=True)
            self._index.write(self._datastore.objects)
        if watch:
            on_mount = self._is_on_mount(self._datastore.image_path())
            self._observer = watch_folder(
                self._datastore_path, self._index.files(), on_mount, self.reload, self.refresh
            )

    def refresh(self) -> None:
        """Update the index after others added or removed files."""
        with self._lock.hold():
            self._catch_up()
            self._datastore.objects = self._scanned(trust_index=True)
        self._settle_all(starting=False)
        with self._changing():
            pass  # notes in the index what was found

    def reload(self) -> None:
        """Read the index if another process wrote it."""
        if self._index.has_news():
            with self._lock.hold():
                self._catch_up()

    def _settle_all(self, starting: bool) -> None:
        """Make the labels of each image agree after files have changed.

        Args:
            starting: whether the server is starting, and may refuse to start.
        """

    def said_and_found(self) -> tuple[Objects, Objects]:
        """Return what the index says, and what is in the folder, both of the same moment.

        Raises:
            Locked: another process has been changing the folder for too long.
        """
        with self.held():
            said = self._index.said
            self._datastore.objects = self._scanned(trust_index=False)
            return said, self._datastore.objects

    def index_content(self) -> dict[str, Any]:
        """Return the index in MONAI Label's form, as it was last read."""
        return self._index.content(self._index.said)

    @property
    def folder(self) -> Path:
        """The studies folder."""
        return Path(self._datastore_path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock, with the newest index read. Where nothing can be written, nobody changes anything.

        Raises:
            Locked: another process has been changing the folder for too long.
        """
        with ExitStack() as held:
            with suppress(OSError):
                held.enter_context(self._lock.hold())
                self._catch_up()
            yield

    def labels_without_image(self) -> dict[str, list[str]]:
        """Return the tags of labels whose names belong to no image, by name."""
        return self._orphans

    # Files

    def _images(self, adding: str = "") -> dict[str, ImageFiles]:
        """Find the images in the folder, and those of the archive that aren't in it yet, which have no file.

        Of two that differ only in their ending, take the one in the index.

        Args:
            adding: name of a file that will be in the folder, if any.
        """
        folder = Path(self._datastore.image_path())
        known = {image_id: entry.image.ext for image_id, entry in self._datastore.objects.items()}
        here = images_among(folder, [*os.listdir(folder), *([adding] if adding else [])], known)
        return dict(sorted({**self.listed.images(), **here}.items()))

    def _label_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.nii.gz")

    def _info_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.json")

    def _set_label(self, change: Change, image_id: str, tag: str, written: Written, info: LabelInfo) -> None:
        """Make a label map that was written beside its place the label of an image."""
        change.put(written.path, self._label_path(image_id, tag))
        self._set_info(change, image_id, tag, written.digests, info)

    def _set_info(self, change: Change, image_id: str, tag: str, digests: Digests, info: LabelInfo) -> None:
        known: LabelInfo = {
            **info,
            "ts": int(time.time()),
            "name": self._label_path(image_id, tag).name,
            "crc32": digests["crc32"],
            "sha256": digests["sha256"],
        }
        change.put_json(self._info_path(image_id, tag), known)
        change.set_label(image_id, tag, DataModel(info=known, ext=".nii.gz"))

    def _require(self, image_id: str) -> ImageLabelModel:
        entry = self._datastore.objects.get(image_id)
        if entry is None:
            not_found(f"there is no image {image_id!r} in the datastore; known: {', '.join(self.list_images()[:20])}")
        return entry

    def _require_label(self, image_id: str, tag: str) -> DataModel:
        label = self._require(image_id).labels.get(tag)
        if label is None:
            not_found(f"image {image_id!r} has no label {tag!r}")
        return label

    # The index

    @contextmanager
    def _preparing(self) -> Iterator[Change]:
        """Yield a change for which files can be written before the lock is taken; those left over are removed."""
        change = Change(Path(self._datastore_path))
        try:
            yield change
        finally:
            change.discard()

    @contextmanager
    def _changing(self, prepared: Change | None = None) -> Iterator[Change]:
        """Hold the lock, with the newest index read; carry out the change at the end of the block.

        Args:
            prepared: a change for which files were written already.

        Raises:
            Locked: somebody else has held the lock for too long.
            OSError: the disk failed; nothing has changed.
        """
        if prepared is None:
            with self._preparing() as change, self._changing(change):
                yield change
            return
        with self._lock.hold():
            self._catch_up()
            prepared.begin(self._datastore.objects)
            yield prepared
            prepared.carry_out(self._index)
            self._datastore.objects = prepared.objects
            if self._index.is_outgrown():
                try:
                    self._index.write(prepared.objects)
                except OSError as error:
                    # The change itself is complete.
                    logger.error("%s: can't be written now: %s", self._datastore_config_path, error)

    def _catch_up(self) -> None:
        """Read what others changed, and undo what was cut short."""
        self._init_from_datastore_file()
        self._index.journal.heal()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read what is new in the index; MONAI Label calls this when the store is opened."""
        before, here = self._index.said, self._datastore.objects
        self._index.read()
        self._datastore.name, self._datastore.description = self._index.name, self._index.description
        now = self._index.said
        if now is not before:
            # What was found in the folder and isn't in the index yet stays.
            objects = {name: entry for name, entry in here.items() if name in now or name not in before}
            objects |= {name: entry for name, entry in now.items() if entry is not before.get(name)}
            self._datastore.objects = dict(sorted(objects.items()))

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the index anew; MONAI Label calls this when the project's name or description has changed."""
        with self._lock.hold():
            self._index.name, self._index.description = self._datastore.name, self._datastore.description
            self._index.write(self._datastore.objects)

    def _scanned(self, trust_index: bool, adding: str = "") -> dict[str, ImageLabelModel]:
        """List images and labels from the folder, and return what the index has to say of them.

        Args:
            trust_index: whether to take the label info from the index for the labels that it lists, rather than to
                read the file beside each label again.
            adding: name of the file of an image that will be in the folder, if any.
        """
        known: Objects = self._datastore.objects
        objects: dict[str, ImageLabelModel] = {}
        images = self._images(adding)
        for image_id, found in images.items():
            if found.fault and found.fault != self._faults.get(image_id):
                logger.warning(found.fault)
            ext = found.ending
            image = known[image_id].image if image_id in known else None
            if image is None or image.ext != ext:
                image = DataModel(info={"ts": int(time.time()), "name": (found.files or [found.path])[0].name}, ext=ext)
            objects[image_id] = ImageLabelModel(image=image, labels={})
        self._faults = {image_id: found.fault for image_id, found in images.items()}
        orphans: dict[str, list[str]] = {}
        # Files of a change that isn't complete don't count yet.
        unfinished = {str(Path(self._datastore_path, name)) for name in self._index.journal.unfinished()}
        labels_folder = self._datastore.label_path(None)
        tags = [entry.name for entry in os.scandir(labels_folder) if entry.is_dir() and is_unicode(entry.name)]
        for tag in sorted(tag for tag in tags if tag != READY_MADE):
            listed = {k: v.labels[tag] for k, v in known.items() if tag in v.labels}
            folder = self._datastore.label_path(tag)
            for image_id, ext in self._labels_in(folder, {k: label.ext for k, label in listed.items()}):
                if os.path.join(folder, image_id + ext) in unfinished:
                    continue
                if image_id not in objects:
                    orphans.setdefault(image_id, []).append(tag)
                    continue
                label = listed.get(image_id)
                if label is None or label.ext != ext or not trust_index:
                    info = read_label_info(self._info_path(image_id, tag))
                    label = DataModel(info=info, ext=ext) if info or label is None else label
                objects[image_id].labels[tag] = label
        for image_id in orphans.keys() - self._orphans.keys():
            logger.warning(
                "%s: there are labels of this name (%s), but no image. They are kept, and are used again when an image "
                "of this name is put back into %s. If any file's name ends in _0000, a file whose name ends in _ and "
                "four digits counts as a channel, not as an image",
                image_id,
                ", ".join(orphans[image_id]),
                self._datastore.image_path(),
            )
        self._orphans = orphans
        return {image_id: known[image_id] if known.get(image_id) == e else e for image_id, e in objects.items()}

    def _labels_in(self, folder: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the id and ending of each file; of two with the same id, the known one or else the first by name."""
        found: dict[str, str] = {}
        for name in sorted(os.listdir(folder)):
            if not is_label_file(name):
                continue
            file_id, ext = split_ending(name)
            if file_id not in found or ext == known.get(file_id):
                found[file_id] = ext
        return iter(found.items())
