"""Images and labels in a folder, with MONAI Label's index of them.

In contrast to MONAI Label's own ``LocalDatastore``, opening it writes nothing, all it writes is renamed into place,
several processes may change it, and an index that is lost or damaged is made anew from the files.
"""

import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from numpy.typing import NDArray
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from lib.core.errors import InputError
from lib.core.files import WRITING, write_json
from lib.core.volumes.formats import endings, split_ending
from lib.core.volumes.image_files import ImageFiles, files_of, images_in, is_listed
from lib.core.volumes.reading import read_volume, write_label_map
from lib.core.volumes.volume import Volume
from lib.server.slicer.replies import not_found

from .studies import describe_unused

logger = logging.getLogger(__name__)


class FolderStore(LocalDatastore):
    """Images in a folder, labels by tag in ``labels/TAG/``, what is known of a label in ``labels/TAG/ID.json``.

    Which files are one image is told by ``core.image_files``.

    Opening it writes nothing, so that a training process may read while the server writes; only the server calls
    ``serve``. Whoever changes it holds the lock and has read the newest index before: threads and processes alike.
    """

    def __init__(self, studies: str) -> None:
        """Open the folder ``studies``."""
        self._index_seen: tuple[int, int] | None = None
        self._index_damaged = False
        self._faults: dict[str, str] = {}
        self._orphans: dict[str, list[str]] = {}
        self._readable: dict[str, object] = {}
        self._unreadable: dict[str, object] = {}
        self._checksums: dict[str, tuple[object, int]] = {}
        self._notes: dict[str, tuple[str, ...]] = {}
        super().__init__(studies, extensions=[f"*{ending}" for ending in endings()], auto_reload=False, read_only=True)
        # One lock object: it can be taken again by the thread that holds it.
        self._lock = FileLock(self._lock_file)
        self._scan(trust_index=True)

    def serve(self, watch: bool) -> None:
        """Bring index and files into agreement, and stay in agreement.

        Args:
            watch: whether to notice files that others add or remove.
        """
        with self._changing():
            self._scan(trust_index=False)
            self._settle_all(starting=True)
            self._update_datastore_file()
        if self.list_images():
            for line in self.describe_unused():
                logger.warning("Not taken from %s: %s", self._datastore_path, line)
        else:
            logger.warning(self.describe_emptiness())
        if watch:
            self._watch()

    def refresh(self) -> None:
        """Bring the index into agreement with files that others added or removed."""
        with self._changing():
            changed = self._scan(trust_index=True)
            if self._settle_all(starting=False) or changed:
                self._update_datastore_file()

    def reload(self) -> None:
        """Read the index if another process wrote it."""
        with self._changing():
            pass

    def _settle_all(self, starting: bool) -> bool:
        """Bring the labels into agreement with each other, when files have changed; tell whether they weren't.

        Args:
            starting: whether the server is just starting, and may refuse to.
        """
        return False

    # Images

    def describe_unused(self) -> list[str]:
        """Say what in the folder isn't taken for an image, and what to do with it; a line for each kind."""
        taken = {path.name for image in self._images().values() for path in image.files}
        return describe_unused(Path(self._datastore_path), taken)

    def describe_emptiness(self) -> str:
        """Say why a folder without any image has none, and what to do."""
        unused = "; ".join(self.describe_unused())
        return f"{self._datastore_path}: there is no image to annotate in this folder" + (
            f", but {unused}" if unused else f"; put some into it, as {', '.join(endings())}"
        )

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of an image's file, of several that of channel 0; "" for an unknown image.

        A link isn't followed: the files of the other channels are found beside the link.
        """
        entry = self._datastore.objects.get(image_id)
        return os.path.join(os.path.realpath(self._datastore.image_path()), image_id + entry.image.ext) if entry else ""

    def image_files(self, image_id: str) -> tuple[Path, ...]:
        """Return all files of an image, by channel.

        Raises:
            InputError: a file is missing, or that of a channel there twice.
        """
        files = files_of(Path(self.get_image_uri(image_id)))
        for path in files:
            if not path.is_file():
                raise InputError(f"{path}: no such file; put the file of the image {image_id!r} back into its place")
        return files

    def check_image(self, image_id: str) -> None:
        """Read an image before it is offered to anybody, who would paint what then can't be submitted.

        What was found is kept until one of the image's files changes.

        Raises:
            InputError: it can't be read; it ``is_unreadable`` then.
        """
        state = self._state(image_id)
        if image_id in self._readable and self._readable[image_id] == state:
            return
        try:
            self._require_usable(image_id)
            self._readable[image_id] = state
        except InputError as error:
            self._unreadable[image_id] = state
            raise InputError(
                f"{error}. To go on with other images, press Next Sample again (strategy 'sparse' or 'next_slice')"
            ) from error

    def _require_usable(self, image_id: str) -> None:
        """Read an image.

        Raises:
            InputError: what is painted on it couldn't be used.
        """
        self.checksum(image_id)

    def read_image(self, image_id: str) -> tuple[Volume, int]:
        """Read an image; return its checksum, too.

        Raises:
            InputError: it can't be read.
        """
        stamp = self._stamp(image_id)
        volume = read_volume(self.get_image_uri(image_id))
        self._checksums[image_id] = stamp, volume.checksum()
        if volume.notes and self._notes.get(image_id) != volume.notes:
            logger.warning("; ".join(volume.notes))
        self._notes[image_id] = volume.notes
        return volume, self._checksums[image_id][1]

    def notes(self, image_id: str) -> list[str]:
        """Return what a person should know of an image, as of when it was read last; nothing if it wasn't."""
        return list(self._notes.get(image_id, ()))

    def has_read(self, image_id: str) -> bool:
        """Tell whether an image was read as it is now, so that its checksum is known."""
        return image_id in self._checksums and self._checksums[image_id][0] == self._stamp(image_id)

    def checksum(self, image_id: str) -> int:
        """Return ``Volume.checksum`` of an image, which is read only if it has changed since.

        Raises:
            InputError: it can't be read.
        """
        return self._checksums[image_id][1] if self.has_read(image_id) else self.read_image(image_id)[1]

    def _stamp(self, image_id: str) -> object:
        """Return what changes when a file of an image is written."""
        states = [(path, path.stat()) for path in self.image_files(image_id)]
        return [(path, state.st_mtime_ns, state.st_size) for path, state in states]

    def labels_without_image(self) -> dict[str, list[str]]:
        """Return the tags of the labels under names that no image of the folder has, by that name."""
        return self._orphans

    def is_unreadable(self, image_id: str) -> bool:
        """Tell whether an image was found unreadable, and is as it was then."""
        return image_id in self._unreadable and self._unreadable[image_id] == self._state(image_id)

    def _images(self) -> dict[str, ImageFiles]:
        """Find the images in the folder; of two that differ in their ending alone, the one that the index knows."""
        known = {image_id: entry.image.ext for image_id, entry in self._datastore.objects.items()}
        return images_in(Path(self._datastore.image_path()), known)

    def _state(self, image_id: str) -> object:
        """Return what changes when a person repairs an image: what it lacks, and when its files were written."""
        return state_of(self._images().get(image_id))

    # Files

    def _label_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.nii.gz")

    def _info_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.json")

    def _store(
        self, image_id: str, tag: str, array: NDArray[np.uint8], affine: NDArray[np.float64], info: dict[str, Any]
    ) -> None:
        # The label first: if the server is killed between the two, the label's info is too old, and ``_settle``
        # sees that. The other way round an old label would pass for the new one.
        write_label_map(self._label_path(image_id, tag), array, affine)
        self._store_info(image_id, tag, info)

    def _store_info(self, image_id: str, tag: str, info: dict[str, Any]) -> None:
        path = self._label_path(image_id, tag)
        info = {**info, "ts": int(time.time()), "name": path.name, "crc32": crc32_of(path)}
        write_json(self._info_path(image_id, tag), info)
        self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=".nii.gz")

    def _remove_files(self, image_id: str, tag: str) -> None:
        Path(self.get_label_uri(image_id, tag)).unlink(missing_ok=True)
        self._info_path(image_id, tag).unlink(missing_ok=True)

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
    def _changing(self) -> Iterator[None]:
        """Hold the lock, with the newest index read."""
        with self._lock:
            self._init_from_datastore_file()
            yield

    def _scan(self, trust_index: bool) -> bool:
        """List images and labels from the folder.

        Args:
            trust_index: whether to believe what the index says of labels it lists; otherwise the file beside each
                label is read again.

        Returns:
            Whether anything differs from the index.
        """
        known = self._datastore.objects
        objects: dict[str, ImageLabelModel] = {}
        images = self._images()
        for image_id, found in images.items():
            if found.fault and found.fault != self._faults.get(image_id):
                logger.warning(found.fault)
            ext = found.path.name.removeprefix(image_id)
            image = known[image_id].image if image_id in known else None
            if image is None or image.ext != ext:
                image = DataModel(info={"ts": int(time.time()), "name": found.path.name}, ext=ext)
            objects[image_id] = ImageLabelModel(image=image)
        self._faults = {image_id: found.fault for image_id, found in images.items()}
        orphans: dict[str, list[str]] = {}
        labels_folder = self._datastore.label_path(None)
        for tag in sorted(entry.name for entry in os.scandir(labels_folder) if entry.is_dir()):
            listed = {k: v.labels[tag] for k, v in known.items() if tag in v.labels}
            for image_id, ext in self._labels_in(
                self._datastore.label_path(tag), {k: label.ext for k, label in listed.items()}
            ):
                if image_id not in objects:
                    orphans.setdefault(image_id, []).append(tag)
                    continue
                label = listed.get(image_id)
                if label is None or label.ext != ext or not trust_index:
                    info = read_info(self._info_path(image_id, tag))
                    label = DataModel(info=info, ext=ext) if info or label is None else label
                objects[image_id].labels[tag] = label
        for image_id in orphans.keys() - self._orphans.keys():
            logger.warning(
                "%s: there are labels of this name (%s), but no image; they are kept, and are used again when an image "
                "of this name is put back into %s. A file named like it, with _ and four digits at the end, counts as "
                "a channel as soon as any file's name ends in _0000",
                image_id,
                ", ".join(orphans[image_id]),
                self._datastore.image_path(),
            )
        self._orphans = orphans
        # One assignment: other threads see the old list or the new one.
        self._datastore.objects = objects
        return objects != known

    def _labels_in(self, folder: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Give the id and ending of each file; where two have the same id, the known one or the first by name."""
        found: dict[str, str] = {}
        for name in sorted(os.listdir(folder)):
            if not is_listed(name):
                continue
            file_id, ext = split_ending(name)
            if file_id not in found or ext == known.get(file_id):
                found[file_id] = ext
        return iter(found.items())

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the index if it isn't the one read or written last; a damaged one is put aside by the next change."""
        path = Path(self._datastore_config_path)
        try:
            state = path.stat()
            seen = (state.st_mtime_ns, state.st_ino)
            if seen == self._index_seen:
                return
            index = LocalDatastoreModel.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError as error:
            logger.error("The index %s is damaged and is made anew from the files: %s", path, error)
            self._index_damaged = True
            return
        index.base_path = self._datastore_path
        self._datastore = index
        self._index_seen = seen
        self._index_damaged = False

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the index, renamed into place."""
        path = Path(self._datastore_config_path)
        with self._lock:
            if self._index_damaged and path.exists():
                aside = path.with_name(f"{path.stem}.damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}.json")
                path.rename(aside)
                logger.error("The damaged index is kept as %s", aside)
            self._index_damaged = False
            write_json(path, self._datastore.model_dump(mode="json", exclude={"base_path"}))
            state = path.stat()
            self._index_seen = (state.st_mtime_ns, state.st_ino)

    # Files that others add or remove

    def _watch(self) -> None:
        on_mount = self._is_on_mount(self._datastore.image_path())
        # Changes on a mounted folder may come from another machine, and the system doesn't tell of those.
        self._observer = PollingObserver() if on_mount else Observer()
        watcher = _Watcher(self, self._datastore_config_path, sys.platform == "linux" and not on_mount)
        self._observer.schedule(watcher, recursive=True, path=self._datastore_path)
        try:
            self._observer.start()
        except OSError as error:
            logger.error("Images added to %s will be seen after a restart only: %s", self._datastore_path, error)


class _Watcher(FileSystemEventHandler):
    """Tells the datastore of changed files; whatever goes wrong, it goes on watching."""

    def __init__(self, store: FolderStore, index: str, tells_of_end: bool) -> None:
        """``tells_of_end``: whether the end of writing is an event of its own; elsewhere each write counts."""
        self.store = store
        self.index = os.path.basename(index)
        self.told_by = ("created", "deleted", "moved", "closed" if tells_of_end else "modified")

    def on_any_event(self, event: FileSystemEvent) -> None:
        names = [os.path.basename(str(path)) for path in (event.src_path, event.dest_path) if path]
        try:
            if self.index in names and event.event_type in ("created", "modified", "moved"):
                self.store.reload()
            # What this software writes is renamed into place, and the index, written after it, tells of it.
            elif event.event_type in self.told_by and (not names[0].startswith(WRITING) and any(map(is_listed, names))):
                self.store.refresh()
        except Exception:
            logger.exception("Could not take note of a changed file: %s", event)


def state_of(image: ImageFiles | None) -> object:
    """Return what changes when a person repairs an image: what it lacks, and when its files were written."""
    return image and (image.fault, [path.stat().st_mtime_ns for path in image.files if path.exists()])


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file."""
    return zlib.crc32(path.read_bytes())


def read_info(path: Path) -> dict[str, Any]:
    """Read what is known of a label; nothing where the file is missing or damaged."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        info = None
    if not isinstance(info, dict):
        logger.error("%s is damaged and is not used", path)
        return {}
    return info
