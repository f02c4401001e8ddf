"""The local datastore: every submission is kept as a version, the newest counts.

=============================  ======================================================================================
in the studies folder          what
=============================  ======================================================================================
``*.nii *.nii.gz *.nrrd``      images
``labels/version_N/``          the N-th submission of an image, with the label scheme's values; never changed
``labels/final/``              the newest of them; what trains
``labels/original/``           the same for 3D Slicer to load: values and names put the model's segments first
``labels/prediction/``         what the model said last
``labels/TAG/ID.json``         what is known of a label (version, time, client, names of its values, statistics)
``datastore_v2.json``          MONAI Label's index; made anew from the above where it is lost or damaged
=============================  ======================================================================================
"""

import fnmatch
import glob
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from numpy.typing import NDArray
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from ..core.annotations import statistics
from ..core.errors import InputError
from ..core.files import replacing, write_json
from ..core.labels import LabelScheme
from ..core.volumes import read_label_map, read_volume, write_label_map
from .replies import errors_for_clients, not_found
from .submission import SchemeError, read_submission, remap

logger = logging.getLogger(__name__)

FINAL, ORIGINAL, PREDICTION = "final", "original", "prediction"
VERSION = "version_"

EXTENSIONS = ("*.nii.gz", "*.nii", "*.nrrd")
"""Images that can be read; MONAI Label's own list has pictures and slides too."""

KEPT_BY_SERVER = ("version", "label_names", "params", "statistics", "name")
"""Label info that clients may read but not change."""


class AnnotationStore(LocalDatastore):
    """Images, annotations and predictions in a folder.

    Opening it writes nothing, so that a training process may read while the server writes; only the server calls
    ``serve``. Whoever changes it holds the lock and has read the newest index before: threads and processes alike.
    """

    def __init__(self, studies: str, scheme: LabelScheme) -> None:
        """Open the datastore.

        Args:
            studies: its folder.
            scheme: the label scheme of submissions.
        """
        self.scheme = scheme
        self._index_seen: tuple[int, int] | None = None
        self._index_damaged = False
        super().__init__(studies, extensions=EXTENSIONS, auto_reload=False, read_only=True)
        # One lock object: it can be taken again by the thread that holds it.
        self._lock = FileLock(self._lock_file)
        self._scan(trust_index=True)

    def serve(self, watch: bool) -> None:
        """Bring index and files into agreement, finish what a killed server left, and stay in agreement.

        Args:
            watch: whether to notice files that others add or remove.

        Raises:
            SchemeError: an annotation has voxels of a class that the scheme doesn't have.
        """
        with self._changing():
            self._scan(trust_index=False)
            for image_id in self.list_images():
                try:
                    self._settle(image_id)
                except SchemeError:
                    raise
                except InputError as error:
                    logger.error(error)
            self._update_datastore_file()
        if watch:
            self._watch()

    # Submissions

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store what a person painted, as the next version of the image's annotation.

        Args:
            image_id: the image.
            label_filename: label file of any accepted format.
            label_tag: ``final``; all other tags are written by the server alone.
            label_info: the request's parameters; ``label_info`` (names of the label's values) and ``client_id``
                are used.

        Raises:
            HTTPException: 404 for an unknown image, 400 for a label that can't be used.
        """
        tag = str(getattr(label_tag, "value", label_tag))
        self._require(image_id)
        with errors_for_clients():
            if tag != FINAL:
                raise InputError(
                    f"tag {tag!r}: labels are submitted under the tag {FINAL!r} only; "
                    "the others are written by the server itself"
                )
            if not isinstance(label_info, Mapping):
                raise InputError(f"params: {label_info!r}; expected an object with label_info and client_id")
            with _naming(label_filename, f"the submitted {self._to_id(label_filename)[1]} label"):
                submission = read_submission(
                    label_filename, self.get_image_uri(image_id), label_info.get("label_info"), self.scheme
                )
            with self._changing():
                self._add_version(
                    image_id,
                    submission.annotation,
                    submission.affine,
                    submission.slicer_affine,
                    submission.warnings,
                    label_info.get("client_id"),
                )
                self._update_datastore_file()
        return image_id

    def save_prediction(
        self, image_id: str, prediction: NDArray[np.uint8], affine: NDArray[np.float64], info: dict[str, Any]
    ) -> None:
        """Store what the model says of an image.

        Args:
            image_id: the image.
            prediction: (X, Y, Z), 0 background, 1 … K foreground.
            affine: (4, 4) of the image.
            info: JSON values to keep with it.
        """
        names = {name: value for value, name in enumerate(self.scheme.predicted, start=1)}
        with self._changing():
            self._store(image_id, PREDICTION, prediction, affine, {"label_names": names, "time": _now(), **info})
            self._update_datastore_file()

    # What clients may do besides

    @errors_for_clients()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store an uploaded image, if it can be read and nothing is stored under its name.

        Raises:
            HTTPException: 400 otherwise.
        """
        stem, ext = self._to_id(os.path.basename(image_filename))
        image_id = image_id or stem
        if not re.fullmatch(r"[^./\\][^/\\]*", image_id):
            raise InputError(f"image name {image_id!r}: give a plain file name, without folders or a leading dot")
        if f"*{ext}" not in EXTENSIONS:
            raise InputError(f"image {image_id!r}: its file ends in {ext!r}; send {', '.join(EXTENSIONS)}")
        with _naming(image_filename, f"image {image_id!r}"):
            uploaded = read_volume(image_filename)
        with self._changing():
            if image_id in self._datastore.objects:
                there = read_volume(self.get_image_uri(image_id))
                if np.array_equal(there.array, uploaded.array) and np.allclose(there.affine, uploaded.affine):
                    return image_id
                raise InputError(f"image {image_id!r}: another image has this name already; choose another name")
            with replacing(Path(self._datastore.image_path(), image_id + ext)) as beside:
                shutil.copyfile(image_filename, beside)
            info = {**(image_info or {}), "ts": int(time.time()), "name": image_id + ext}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ext))
            self._scan(trust_index=True)
            self._update_datastore_file()
        return image_id

    @errors_for_clients()
    def remove_image(self, image_id: str) -> None:
        """Remove an image that nobody annotated.

        Raises:
            HTTPException: 404 for an unknown image, 400 for an annotated one: no submission is ever deleted.
        """
        with self._changing():
            entry = self._require(image_id)
            if any(tag != PREDICTION for tag in entry.labels):
                raise InputError(
                    f"image {image_id!r} is annotated, and annotations are never deleted; to leave it out, "
                    "move its file out of the studies folder (its labels stay)"
                )
            if PREDICTION in entry.labels:
                self._remove_files(image_id, PREDICTION)
            os.unlink(self.get_image_uri(image_id))
            del self._datastore.objects[image_id]
            self._update_datastore_file()

    @errors_for_clients()
    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a prediction.

        Raises:
            HTTPException: 404 for an unknown label, 400 for an annotation: no submission is ever deleted.
        """
        with self._changing():
            self._require_label(label_id, label_tag)
            if label_tag != PREDICTION:
                raise InputError(
                    f"label {label_tag!r} of image {label_id!r}: annotations are never deleted; submit a better one"
                )
            self._remove_files(label_id, PREDICTION)
            del self._datastore.objects[label_id].labels[PREDICTION]
            self._update_datastore_file()

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image."""
        with self._changing():
            self._require(image_id)
            super().update_image_info(image_id, info)

    @errors_for_clients()
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known of a label.

        Raises:
            HTTPException: 404 for an unknown label, 400 for what the server goes by.
        """
        taken = sorted(set(info) & set(KEPT_BY_SERVER))
        if taken:
            raise InputError(f"label info {', '.join(taken)}: kept by the server; use other names")
        with self._changing():
            label = self._require_label(label_id, label_tag)
            label.info = {**label.info, **info}
            write_json(self._info_path(label_id, label_tag), label.info)
            self._update_datastore_file()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return a ZIP file of annotated images and their annotations."""
        if not self.datalist():
            not_found("no image is annotated yet")
        return super().get_dataset_archive(limit_cases)

    # Versions

    def _add_version(
        self,
        image_id: str,
        annotation: NDArray[np.uint8],
        affine: NDArray[np.float64],
        slicer_affine: NDArray[np.float64] | None,
        warnings: list[str],
        client_id: str | None,
    ) -> None:
        """Store an annotation as the next version and make it the current one."""
        entry = self._datastore.objects[image_id]
        version = self._last_version(image_id) + 1
        before = self._current(image_id)
        facts = self._facts(annotation)
        info = {
            "version": version,
            "time": _now(),
            "client_id": client_id,
            **facts,
            "earlier_version": before.get("version"),
            "gone_slices": _gone(before.get("statistics", {}), facts["statistics"]),
            "warnings": warnings,
        }
        self._store(image_id, f"{VERSION}{version}", annotation, affine, info)
        entry.image.info = {**entry.image.info, "versions": version}
        self._make_current(image_id, annotation, affine, slicer_affine, info)

    def _make_current(
        self,
        image_id: str,
        annotation: NDArray[np.uint8],
        affine: NDArray[np.float64],
        slicer_affine: NDArray[np.float64] | None,
        info: dict[str, Any],
    ) -> None:
        """Store an annotation under the tags ``final`` and ``original``."""
        self._store(image_id, FINAL, annotation, affine, info)
        # In the list that Slicer makes its segments from, the model's stand first: later ones overwrite earlier
        # ones on submit. All that one label has of names are contiguous values from 1, so paint moves up by K.
        shifted = np.where(annotation > 0, annotation + np.uint8(len(self.scheme.predicted)), 0).astype(np.uint8)
        names = {name: value for value, name in enumerate(self.scheme.segments, start=1)}
        shown = affine if slicer_affine is None else slicer_affine
        self._store(
            image_id, ORIGINAL, shifted, shown, {**info, "label_names": names, "params": {"label_names": names}}
        )

    def _settle(self, image_id: str) -> bool:
        """Make the newest version the current one, with the scheme's values, where it isn't; tell whether it wasn't.

        That happens where the server was killed in the midst of a submission, ``final`` was removed or put there by
        hand, or the scheme changed.

        Raises:
            SchemeError: the annotation has voxels of a class that the scheme doesn't have.
            InputError: the image or the annotation can't be read.
        """
        labels = self._datastore.objects[image_id].labels
        current = self._current(image_id)
        newest = max(map(_version_number, labels), default=0)
        behind = newest > current.get("version", 0)
        if FINAL in labels and "version" not in current and not behind:
            return self._adopt(image_id)
        if not behind and (FINAL not in labels or self._is_whole(image_id)):
            return False
        tag = f"{VERSION}{newest}" if behind else FINAL
        path = self.get_label_uri(image_id, tag)
        logger.info("Making %s the current annotation of %s", path, image_id)
        info = {"version": newest, "label_names": self._label_names(), **self.get_label_info(image_id, tag)}
        stored = read_label_map(path)
        annotation = remap(stored.array.astype(np.uint8), info["label_names"], self.scheme, path)
        volume = read_volume(self.get_image_uri(image_id))
        self._make_current(
            image_id, annotation, stored.affine, volume.slicer_affine, {**info, **self._facts(annotation)}
        )
        return True

    def _is_whole(self, image_id: str) -> bool:
        """Tell whether ``final`` and ``original`` hold the same version in the scheme's values."""
        labels = self._datastore.objects[image_id].labels
        final, original = labels[FINAL].info, labels[ORIGINAL].info if ORIGINAL in labels else {}
        # The order of the names counts too: Slicer goes by it.
        return (
            final["version"] == original.get("version")
            and list(final.get("label_names", ())) == list(self.scheme.classes)
            and list(original.get("label_names", ())) == list(self.scheme.segments)
        )

    def _facts(self, annotation: NDArray[np.uint8]) -> dict[str, Any]:
        return {"label_names": self._label_names(), "statistics": statistics(annotation, self.scheme)}

    def _adopt(self, image_id: str) -> bool:
        """Make a label that somebody put into ``labels/final`` a version, as if it had been submitted."""
        path = Path(self.get_label_uri(image_id, FINAL))
        try:
            submission = read_submission(path, self.get_image_uri(image_id), None, self.scheme)
        except InputError as error:
            logger.error("%s can't be used as annotation and is left out: %s", path, error)
            del self._datastore.objects[image_id].labels[FINAL]
            return True
        logger.info("Taking %s for an annotation of %s", path, image_id)
        self._add_version(
            image_id, submission.annotation, submission.affine, submission.slicer_affine, submission.warnings, None
        )
        if path != self._label_path(image_id, FINAL):
            path.unlink()
        return True

    def _last_version(self, image_id: str) -> int:
        """Return the highest number ever given, also where its files are gone."""
        numbers = [self._datastore.objects[image_id].image.info.get("versions", 0)]
        numbers.append(self._current(image_id).get("version", 0))
        for folder in Path(self._datastore.label_path(None)).iterdir():
            if _version_number(folder.name) and any(folder.glob(f"{glob.escape(image_id)}.*")):
                numbers.append(_version_number(folder.name))
        return max(numbers)

    def _current(self, image_id: str) -> dict[str, Any]:
        """Return what is known of the current annotation; empty if there is none."""
        return self.get_label_info(image_id, FINAL)

    def _label_names(self) -> dict[str, int]:
        return {name: value for value, name in enumerate(self.scheme.classes, start=1)}

    # Files

    def _label_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.nii.gz")

    def _info_path(self, image_id: str, tag: str) -> Path:
        return Path(self._datastore.label_path(tag), f"{image_id}.json")

    def _store(
        self, image_id: str, tag: str, array: NDArray[np.uint8], affine: NDArray[np.float64], info: dict[str, Any]
    ) -> None:
        path = self._label_path(image_id, tag)
        info = {**info, "ts": int(time.time()), "name": path.name}
        # The label first: if the server is killed between the two, the label's info is too old, and ``_settle``
        # sees that. The other way round an old label would pass for the new one.
        write_label_map(path, array, affine)
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

    def refresh(self) -> None:
        """Bring the index into agreement with files that others added or removed."""
        with self._changing():
            changed = self._scan(trust_index=True)
            for image_id in self.list_images():
                try:
                    changed |= self._settle(image_id)
                except InputError as error:
                    logger.error(error)
            if changed:
                self._update_datastore_file()

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
        for image_id, ext in self._files_in(self._datastore.image_path(), {k: v.image.ext for k, v in known.items()}):
            image = known[image_id].image if image_id in known else None
            if image is None or image.ext != ext:
                image = DataModel(info={"ts": int(time.time()), "name": image_id + ext}, ext=ext)
            objects[image_id] = ImageLabelModel(image=image)
        labels_folder = self._datastore.label_path(None)
        for tag in sorted(entry.name for entry in os.scandir(labels_folder) if entry.is_dir()):
            listed = {k: v.labels[tag] for k, v in known.items() if tag in v.labels}
            for image_id, ext in self._files_in(
                self._datastore.label_path(tag), {k: label.ext for k, label in listed.items()}
            ):
                if image_id not in objects:
                    continue
                label = listed.get(image_id)
                if label is None or label.ext != ext or not trust_index:
                    found = self._read_info(image_id, tag)
                    label = DataModel(info=found, ext=ext) if found or label is None else label
                objects[image_id].labels[tag] = label
        # One assignment: other threads see the old list or the new one.
        self._datastore.objects = objects
        return objects != known

    def _files_in(self, folder: str, known: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Give the id and ending of each file; where two have the same id, the known one or the first by name."""
        found: dict[str, str] = {}
        for name in sorted(os.listdir(folder)):
            if not _is_listed(name):
                continue
            file_id, ext = self._to_id(name)
            if file_id not in found or ext == known.get(file_id):
                found[file_id] = ext
        return iter(found.items())

    def _read_info(self, image_id: str, tag: str) -> dict[str, Any]:
        path = self._info_path(image_id, tag)
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
                aside = path.with_name(f"{path.stem}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}.json")
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
        self._observer.schedule(_Watcher(self, self._datastore_config_path), recursive=True, path=self._datastore_path)
        try:
            self._observer.start()
        except OSError as error:
            logger.error("Images added to %s will be seen after a restart only: %s", self._datastore_path, error)

    def reload(self) -> None:
        """Read the index if another process wrote it."""
        with self._changing():
            pass


class _Watcher(FileSystemEventHandler):
    """Tells the datastore of changed files; whatever goes wrong, it goes on watching."""

    def __init__(self, store: AnnotationStore, index: str) -> None:
        self.store = store
        self.index = os.path.basename(index)

    def on_any_event(self, event: FileSystemEvent) -> None:
        names = [os.path.basename(str(path)) for path in (event.src_path, event.dest_path) if path]
        try:
            if self.index in names and event.event_type in ("created", "modified", "moved"):
                self.store.reload()
            # What this software writes is renamed into place, and the index, written after it, tells of it.
            elif event.event_type in ("created", "deleted", "moved") and (
                not names[0].startswith(".") and any(map(_is_listed, names))
            ):
                self.store.refresh()
        except Exception:
            logger.exception("Could not take note of a changed file: %s", event)


def _is_listed(name: str) -> bool:
    """Tell whether a file is an image or label. Those with a leading dot are being written, or made by macOS."""
    return not name.startswith(".") and any(fnmatch.fnmatch(name, pattern) for pattern in EXTENSIONS)


def _version_number(tag: str) -> int:
    """Return N of ``version_N``; 0 for another tag."""
    number = tag.removeprefix(VERSION)
    return int(number) if tag.startswith(VERSION) and number.isdecimal() else 0


def _gone(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[list[int]]:
    """Return for each axis the annotated slices that were there before and aren't any more."""
    earlier = before.get("annotated_slices", [[], [], []])
    return [sorted(set(a) - set(b)) for a, b in zip(earlier, now["annotated_slices"], strict=True)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _naming(file: str, name: str) -> Iterator[None]:
    """In messages, call an uploaded file by a name that the client knows instead of its temporary one."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(file, name)) from error
