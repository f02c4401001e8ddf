"""The local datastore: every submission is kept as a version, the newest counts.

=============================  ======================================================================================
in the studies folder          what
=============================  ======================================================================================
``*.nii *.nii.gz *.nrrd``      images; ``case_0000.nii.gz``, ``case_0001.nii.gz``, … are the channels of one, ``case``
``labels/version_N/``          the N-th submission of an image, with the label scheme's values; never changed
``labels/final/``              the newest of them; what trains
``labels/original/``           the same for 3D Slicer to load: values and names put the server's segments first
``labels/prediction/``         what the model said last
``labels/uncertainty/``        how unsure it was, 0 … 255
``labels/TAG/ID.json``         what is known of a label: version, time, client, which version it brings back, what of
                               the version before is gone, names of its values and slices, statistics
``datastore_v2.json``          MONAI Label's index; made anew from the above where it is lost or damaged
=============================  ======================================================================================
"""

import glob
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel
from numpy.typing import NDArray

from ..core.annotations import statistics
from ..core.errors import InputError
from ..core.files import replacing, write_json
from ..core.formats import READERS, split_ending
from ..core.image_files import images_among
from ..core.labels import LabelScheme
from ..core.slice_names import SliceNames
from ..core.volumes import onto_grid, read_file, read_label_map, read_volume
from .folder_store import FolderStore, read_info
from .replies import errors_for_clients, not_found
from .submission import SchemeError, Submission, read_submission, remap

logger = logging.getLogger(__name__)

FINAL, ORIGINAL, PREDICTION, UNCERTAINTY = "final", "original", "prediction", "uncertainty"

MADE = (PREDICTION, UNCERTAINTY)
"""Tags of what the model made, which can be made again."""
VERSION = "version_"

KEPT_BY_SERVER = (
    "version",
    "time",
    "client_id",
    "restored_version",
    "earlier",
    "warnings",
    "slice_names",
    "label_names",
    "params",
    "statistics",
    "name",
    "ts",
)
"""Label info that clients may read but not change."""

IMAGE_INFO_KEPT_BY_SERVER = ("versions", "name", "ts")
"""Image info that clients may read but not change."""


class AnnotationStore(FolderStore):
    """Images, annotations and predictions in a folder; only what a person painted is ever an annotation."""

    def __init__(self, studies: str, scheme: LabelScheme) -> None:
        """Open the datastore.

        Args:
            studies: its folder.
            scheme: the label scheme of submissions.
        """
        self.scheme = scheme
        self._submitted = threading.local()
        super().__init__(studies)

    @classmethod
    def existing(cls, studies: Path) -> "AnnotationStore":
        """Open the datastore of a folder that has annotations, with the label scheme that they were stored with last.

        Raises:
            InputError: no annotation is kept in the folder.
        """
        # The server brings all current annotations to its scheme when it starts; one that it couldn't is older.
        for tag in (FINAL, f"{VERSION}*"):
            files = (studies / "labels").glob(f"{tag}/[!.]*.json")
            for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
                names = read_info(path).get("label_names", {})
                if len(names) > 1:
                    *foreground, background = sorted(names, key=names.__getitem__)
                    return cls(str(studies), LabelScheme(tuple(foreground), background))
        raise InputError(
            f"{studies}: no annotation is kept there (labels/final/ and labels/version_1/ …); give the folder that the "
            "server serves"
        )

    # Submissions

    @property
    def submitted(self) -> dict[str, Any]:
        """Label info of the version that this thread submitted last; another may be the current one by now."""
        info: dict[str, Any] = self._submitted.info
        return info

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
                self._submitted.info = self._add_version(image_id, submission, label_info.get("client_id"))
                self._update_datastore_file()
        return image_id

    def save_prediction(
        self,
        image_id: str,
        prediction: NDArray[np.uint8],
        entropy: NDArray[np.uint8],
        affine: NDArray[np.float64],
        info: dict[str, Any],
    ) -> None:
        """Store what the model says of an image, and how unsure it is.

        Args:
            image_id: the image.
            prediction: (X, Y, Z), 0 background, 1 … K foreground.
            entropy: (X, Y, Z), 0 … 255, see ``inference.entropy``.
            affine: (4, 4) of the image.
            info: JSON values to keep with it.

        Raises:
            HTTPException: 404 for an unknown image.
        """
        names = {name: value for value, name in enumerate(self.scheme.predicted, start=1)}
        with self._changing():
            # It may have been removed while the model was at work.
            self._require(image_id)
            # The prediction last: who finds one finds the uncertainty that belongs to it, or a newer one.
            known = {"time": _now(), **info}
            self._store(image_id, UNCERTAINTY, entropy, affine, known)
            self._store(image_id, PREDICTION, prediction, affine, {**known, "label_names": names})
            self._update_datastore_file()

    # What clients may do besides

    @errors_for_clients()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store an uploaded image, if it can be read and nothing is stored under its name.

        A channel of an image (``image_files``) isn't taken: Slicer goes on with the name that it gave to its upload,
        under which there would be no image.

        Raises:
            HTTPException: 400 otherwise.
        """
        stem, ext = split_ending(os.path.basename(image_filename))
        image_id = image_id or stem
        if not re.fullmatch(r"[^./\\][^/\\]*", image_id):
            raise InputError(f"image name {image_id!r}: give a plain file name, without folders or a leading dot")
        if not ext:
            ending = os.path.splitext(image_filename)[1]
            raise InputError(f"image {image_id!r}: its file ends in {ending!r}; send one of {', '.join(READERS)}")
        with _naming(image_filename, f"image {image_id!r}"):
            uploaded = read_file(image_filename)
        with self._changing():
            if image_id in self._datastore.objects:
                there = read_volume(self.get_image_uri(image_id))
                if np.array_equal(there.array, uploaded.array) and np.allclose(there.affine, uploaded.affine):
                    return image_id
                raise InputError(f"image {image_id!r}: another image has this name already; choose another name")
            folder = Path(self._datastore.image_path())
            if image_id not in images_among(folder, [*os.listdir(folder), image_id + ext]):
                raise InputError(
                    f"image {image_id!r}: a name that ends in _ and four digits is that of one channel of an image; "
                    "choose another name, send all channels in one file, or put the files of all channels into the "
                    "folder that is served"
                )
            with replacing(folder / (image_id + ext)) as beside:
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
            HTTPException: 404 for an unknown image, 400 for an annotated one (no submission is ever deleted) and for
                one of whose channels some are missing, there twice, or annotated as images of their own.
        """
        with self._changing():
            entry = self._require(image_id)
            if any(tag not in MADE for tag in entry.labels):
                raise InputError(
                    f"image {image_id!r} is annotated, and annotations are never deleted; to leave it out, "
                    "move its file out of the studies folder (its labels stay)"
                )
            files = self.image_files(image_id)
            for path in files:
                own_name = split_ending(path.name)[0]
                if any(tag not in MADE for tag in self.labels_without_image().get(own_name, ())):
                    raise InputError(
                        f"image {image_id!r}: its file {path} was annotated as an image of its own, {own_name!r}, and "
                        "annotations are never deleted; rename the files that end in _0000 to have it back"
                    )
            for tag in MADE:
                if tag in entry.labels:
                    self._remove_files(image_id, tag)
            # Channel 0 last: without it, what is left wouldn't count as channels any more.
            for path in reversed(files):
                path.unlink()
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
            if label_tag not in MADE:
                raise InputError(
                    f"label {label_tag!r} of image {label_id!r}: annotations are never deleted; submit a better one"
                )
            self._remove_files(label_id, label_tag)
            del self._datastore.objects[label_id].labels[label_tag]
            self._update_datastore_file()

    @errors_for_clients()
    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of an image.

        Raises:
            HTTPException: 404 for an unknown image, 400 for what the server goes by.
        """
        _refuse_names(info, IMAGE_INFO_KEPT_BY_SERVER, "image")
        with self._changing():
            self._require(image_id)
            super().update_image_info(image_id, info)

    @errors_for_clients()
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known of a label.

        Raises:
            HTTPException: 404 for an unknown label, 400 for what the server goes by.
        """
        _refuse_names(info, KEPT_BY_SERVER, "label")
        with self._changing():
            label = self._require_label(label_id, label_tag)
            label.info = {**label.info, **info}
            write_json(self._info_path(label_id, label_tag), label.info)
            self._update_datastore_file()

    @errors_for_clients()
    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return a ZIP file of annotated images (all their files) and their annotations.

        Laid out as MONAI Label's, which knows one file for each image: ``image/``, ``label/``, ``metadata.json``.

        Raises:
            HTTPException: 404 where nothing is annotated, 400 for an image that lacks a channel.
        """
        annotated = self.get_labeled_images()
        if not annotated:
            not_found("no image is annotated yet")
        if limit_cases and limit_cases > 0:
            annotated = annotated[:limit_cases]
        files = [(path, "image") for image_id in annotated for path in self.image_files(image_id)]
        files += [(Path(self.get_label_uri(image_id, FINAL)), "label") for image_id in annotated]
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file, zipfile.ZipFile(file, "w") as archive:
            for path, folder in files:
                archive.write(path, f"{folder}/{path.name}")
            archive.writestr("metadata.json", self._datastore.model_dump_json(exclude={"base_path"}))
        return file.name

    # Versions

    def versions(self, image_id: str) -> dict[int, dict[str, Any]]:
        """Return what is known of each version of an image's annotation, by number in ascending order."""
        labels = self._datastore.objects[image_id].labels
        return {
            number: labels[f"{VERSION}{number}"].info for number in sorted(filter(None, map(_version_number, labels)))
        }

    def restore(self, image_id: str, version: int) -> dict[str, Any]:
        """Make an earlier version of an image's annotation the newest: it is stored once more, as the next version.

        A server on the same folder notices.

        Returns:
            The label info of the new version.

        Raises:
            InputError: there is no such image or version, it is the current one already, it or the image can't be
                read, or it has a class that the scheme doesn't have.
        """
        self.reload()
        path = self.version_file(image_id, version)
        volume = read_volume(self.get_image_uri(image_id))
        stored = read_label_map(path)
        values = remap(stored.array.astype(np.uint8), self.version_names(image_id, version), self.scheme, str(path))
        annotation = onto_grid(replace(stored, array=values), volume).astype(np.uint8)
        submission = Submission(annotation, volume.affine, volume.slicer_affine, SliceNames.of(volume), [])
        with self._changing():
            if version == self._current(image_id).get("version") == self._last_version(image_id):
                raise InputError(f"image {image_id!r}: version {version} is the current one already")
            info = self._add_version(image_id, submission, None, restored_version=version)
            self._update_datastore_file()
        return info

    def version_file(self, image_id: str, version: int) -> Path:
        """Return the file of a version.

        Raises:
            InputError: there is no such image or version; says which there are.
        """
        if image_id not in self.list_images():
            raise InputError(
                f"image {image_id!r}: {self._datastore_path} has none of this name; it has "
                f"{', '.join(self.list_images()) or 'no image'}"
            )
        known = ", ".join(map(str, self.versions(image_id)))
        if version not in self.versions(image_id):
            raise InputError(f"image {image_id!r}: there is no version {version} of it; versions are {known or 'none'}")
        return Path(self.get_label_uri(image_id, f"{VERSION}{version}"))

    def version_names(self, image_id: str, version: int) -> dict[str, int]:
        """Return the value of each class in a version's file, which may be that of another scheme.

        Raises:
            InputError: it isn't known.
        """
        names: dict[str, int] = self.versions(image_id)[version].get("label_names", {})
        if not names:
            raise InputError(
                f"{self._info_path(image_id, f'{VERSION}{version}')}: missing or without label_names, so nobody knows "
                f"what the values of version {version} stand for; put the file back from a copy of the folder"
            )
        return names

    def _add_version(
        self, image_id: str, submission: Submission, client_id: str | None, restored_version: int | None = None
    ) -> dict[str, Any]:
        """Store an annotation as the next version and make it the current one; return its label info."""
        entry = self._datastore.objects[image_id]
        version = self._last_version(image_id) + 1
        before = self._current(image_id)
        facts = self._facts(submission.annotation)
        info = {
            "version": version,
            "time": _now(),
            "client_id": client_id,
            "restored_version": restored_version,
            **facts,
            "slice_names": submission.slice_names.to_json(),
            "earlier": _what_is_gone(before, facts["statistics"]) if "version" in before else None,
            "warnings": submission.warnings,
        }
        self._store(image_id, f"{VERSION}{version}", submission.annotation, submission.affine, info)
        entry.image.info = {**entry.image.info, "versions": version}
        self._make_current(image_id, submission.annotation, submission.affine, submission.slicer_affine, info)
        return info

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
        # In the list that Slicer makes its segments from, the server's stand first: later ones overwrite earlier
        # ones on submit. All that one label has of names are contiguous values from 1, so paint moves up.
        shifted = np.where(annotation > 0, annotation + np.uint8(len(self.scheme.not_paint)), 0).astype(np.uint8)
        names = {name: value for value, name in enumerate(self.scheme.segments, start=1)}
        shown = affine if slicer_affine is None else slicer_affine
        self._store(
            image_id, ORIGINAL, shifted, shown, {**info, "label_names": names, "params": {"label_names": names}}
        )

    def _settle_all(self, starting: bool) -> bool:
        """Bring every image's labels into agreement, and finish what a killed server left; tell whether they weren't.

        Raises:
            SchemeError: when starting, an annotation has voxels of a class that the scheme doesn't have.
        """
        changed = False
        for image_id in self.list_images():
            try:
                changed |= self._settle(image_id)
            except InputError as error:
                if starting and isinstance(error, SchemeError):
                    raise
                logger.error(error)
        return changed

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
            submission = read_submission(path, self.get_image_uri(image_id), None, self.scheme, by_number=True)
        except InputError as error:
            logger.error("%s can't be used as annotation and is left out: %s", path, error)
            del self._datastore.objects[image_id].labels[FINAL]
            return True
        logger.info("Taking %s for an annotation of %s", path, image_id)
        self._add_version(image_id, submission, None)
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


def _version_number(tag: str) -> int:
    """Return N of ``version_N``; 0 for another tag."""
    number = tag.removeprefix(VERSION)
    return int(number) if tag.startswith(VERSION) and number.isdecimal() else 0


def _what_is_gone(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return whose the version before was, and for each axis its annotated slices that aren't there any more."""
    earlier = before.get("statistics", {}).get("annotated_slices", [[], [], []])
    gone = [sorted(set(a) - set(b)) for a, b in zip(earlier, now["annotated_slices"], strict=True)]
    return {
        **{key: before.get(key) for key in ("version", "time", "client_id", "restored_version")},
        "gone_slices": gone,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refuse_names(info: Mapping[str, Any], kept: Collection[str], kind: str) -> None:
    taken = sorted(set(info) & set(kept))
    if taken:
        raise InputError(f"{kind} info {', '.join(taken)}: kept by the server; use other names")


@contextmanager
def _naming(file: str, name: str) -> Iterator[None]:
    """In messages, call an uploaded file by a name that the client knows instead of its temporary one."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(file, name)) from error
