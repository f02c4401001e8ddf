"""Images and labels in a folder, and MONAI Label's index of them.

Unlike MONAI Label's own ``LocalDatastore``, this one writes nothing when it is opened and renames all that it writes
into place. Several processes may change it, and it rebuilds a lost or damaged index from the files.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from numpy.typing import NDArray

from lib.core.files import write_json
from lib.core.volumes.formats import endings, split_ending
from lib.core.volumes.image_files import ImageFiles, images_in, is_listed
from lib.core.volumes.reading import write_label_map
from lib.server.records import LabelInfo
from lib.server.slicer.replies import not_found

from .label_files import crc32_of, read_info
from .watching import watch_folder

logger = logging.getLogger(__name__)


class FolderStore(LocalDatastore):
    """Images in a folder, labels by tag in ``labels/TAG/``, and label info in ``labels/TAG/ID.json``.

    ``core.volumes.image_files`` decides which files make up one image.

    Opening the store writes nothing, so a training process may read while the server writes. Only the server calls
    ``serve``. Each change, by a thread or a process, holds the lock and first reads the newest index.
    """

    def __init__(self, studies: str) -> None:
        """Open the folder ``studies``."""
        self._index_seen: tuple[int, int] | None = None
        self._index_damaged = False
        self._faults: dict[str, str] = {}
        self._orphans: dict[str, list[str]] = {}
        super().__init__(studies, extensions=[f"*{ending}" for ending in endings()], auto_reload=False, read_only=True)
        # One lock object, because the thread that holds it can acquire it again.
        self._lock = FileLock(self._lock_file)
        self._scan(trust_index=True)

    def serve(self, watch: bool) -> None:
        """Make the index agree with the files, and keep it up to date.

        Args:
            watch: whether to notice files that others add or remove.
        """
        with self._changing():
            self._scan(trust_index=False)
            self._settle_all(starting=True)
            self._update_datastore_file()
        if watch:
            index = os.path.basename(self._datastore_config_path)
            on_mount = self._is_on_mount(self._datastore.image_path())
            self._observer = watch_folder(self._datastore_path, index, on_mount, self.reload, self.refresh)

    def refresh(self) -> None:
        """Update the index after others added or removed files."""
        with self._changing():
            changed = self._scan(trust_index=True)
            if self._settle_all(starting=False) or changed:
                self._update_datastore_file()

    def reload(self) -> None:
        """Read the index if another process wrote it."""
        with self._changing():
            pass

    def _settle_all(self, starting: bool) -> bool:
        """Make the labels of each image agree after files have changed.

        Args:
            starting: whether the server is starting, and may refuse to start.

        Returns:
            Whether anything was changed.
        """
        return False

    def labels_without_image(self) -> dict[str, list[str]]:
        """Return the tags of labels whose names belong to no image, by name."""
        return self._orphans

    # Files

    def _images(self) -> dict[str, ImageFiles]:
        """Find the images in the folder; of two that differ only in their ending, take the one in the index."""
        known = {image_id: entry.image.ext for image_id, entry in self._datastore.objects.items()}
        return images_in(Path(self._datastore.image_path()), known)

    def _label_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.nii.gz")

    def _info_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.json")

    def _store(
        self, image_id: str, tag: str, array: NDArray[np.uint8], affine: NDArray[np.float64], info: LabelInfo
    ) -> None:
        # The label comes first: if the server is killed in between, the info is too old, and settling detects that.
        # In the other order, an old label would pass for the new one.
        write_label_map(self._label_path(image_id, tag), array, affine)
        self._store_info(image_id, tag, info)

    def _store_info(self, image_id: str, tag: str, info: LabelInfo) -> None:
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
        """Hold the lock, after reading the newest index."""
        with self._lock:
            self._init_from_datastore_file()
            yield

    def _scan(self, trust_index: bool) -> bool:
        """List images and labels from the folder.

        Args:
            trust_index: whether to take the info of listed labels from the index, instead of reading the file beside
                each label again.

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
                "%s: there are labels of this name (%s), but no image. They are kept, and are used again when an image "
                "of this name is put back into %s. If any file's name ends in _0000, a file whose name ends in _ and "
                "four digits counts as a channel, not as an image",
                image_id,
                ", ".join(orphans[image_id]),
                self._datastore.image_path(),
            )
        self._orphans = orphans
        # One assignment, so that other threads see either the old list or the new one.
        self._datastore.objects = objects
        return bool(objects != known)

    def _labels_in(self, folder: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the id and ending of each file; of two with the same id, the known one or else the first by name."""
        found: dict[str, str] = {}
        for name in sorted(os.listdir(folder)):
            if not is_listed(name):
                continue
            file_id, ext = split_ending(name)
            if file_id not in found or ext == known.get(file_id):
                found[file_id] = ext
        return iter(found.items())

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the index if another process wrote it; the next change moves a damaged one aside."""
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
            logger.error("The index %s is damaged and will be rebuilt from the files: %s", path, error)
            self._index_damaged = True
            return
        index.base_path = self._datastore_path
        self._datastore = index
        self._index_seen = seen
        self._index_damaged = False

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the index and rename it into place."""
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
