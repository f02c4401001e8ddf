"""The datastore of the server: what the model said, and what clients may send, change and take away."""

import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel, ImageLabelModel
from numpy.typing import NDArray

from lib.core.annotation.slices import Unpainted
from lib.core.errors import InputError
from lib.core.files import replacing, write_json
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import endings, split_ending
from lib.core.volumes.image_files import images_among, is_image
from lib.core.volumes.reading import read_file, read_volume
from lib.server.slicer.replies import errors_for_clients, not_found

from .submission import ZeroMeans, read_submission
from .versions import FINAL, VersionStore, now

PREDICTION, UNCERTAINTY = "prediction", "uncertainty"

MADE = (PREDICTION, UNCERTAINTY)
"""Tags of what the model made, which can be made again."""

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
    "crc32",
    "name",
    "ts",
)
"""Label info that clients may read but not change."""

IMAGE_INFO_KEPT_BY_SERVER = ("versions", "name", "ts")
"""Image info that clients may read but not change."""


class AnnotationStore(VersionStore):
    """Images, annotations and predictions in a folder; only what a person painted is ever an annotation."""

    def __init__(
        self,
        studies: str,
        scheme: LabelScheme,
        unpainted: Unpainted = "unlabelled",
        unlabelled: ZeroMeans | None = None,
    ) -> None:
        """Open the datastore, see ``VersionStore``."""
        self._submitted: dict[str, dict[str, Any]] = {}
        super().__init__(studies, scheme, unpainted, unlabelled)

    # Submissions

    def submitted(self, label_id: str) -> dict[str, Any]:
        """Return, once, the label info of what ``save_label`` stored; another version may be current by now."""
        return self._submitted.pop(label_id)

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
                self._submitted[image_id] = self._add_version(image_id, submission, label_info.get("client_id"))
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
            known = {"time": now(), **info}
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
            raise InputError(f"image {image_id!r}: its file ends in {ending!r}; send one of {', '.join(endings())}")
        if not is_image(Path(image_filename)):
            raise InputError(
                f"image {image_id!r}: its file is one of 3D Slicer's segmentations, no image; to annotate, submit it "
                "as the label of its image"
            )
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
            if any(of == image_id for of, _ in self._files_in_final()) or any(tag not in MADE for tag in entry.labels):
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
