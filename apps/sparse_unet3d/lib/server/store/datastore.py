"""The datastore of the server: submissions, predictions and uploaded images."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel
from numpy.typing import NDArray

from lib.core.annotation.slices import Unpainted
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import endings, format_of, split_ending
from lib.core.volumes.image_files import all_files, is_image
from lib.server.records import AnnotationInfo, Offer, PredictionInfo
from lib.server.slicer.replies import not_found
from lib.server.slicer.segments import predicted_segments

from .annotations import FINAL
from .dataset_archive import write_archive
from .decoding import decode_submission, default_limit, is_same_image
from .image_formats import write_like_image
from .label_files import now
from .masks import ZeroMeans
from .ready_made import ReadyMadeStore

PREDICTION, UNCERTAINTY = "prediction", "uncertainty"

MODEL_TAGS = (PREDICTION, UNCERTAINTY)
"""Tags of the labels that the model makes, and can make again."""


LONGEST_NAME = 200
"""Bytes of an image's name. File systems allow 255, and endings and other files' names are made of it."""


class SubmittedLabel(str):
    """Id of a submitted label, with its label info.

    MONAI Label hands the id from ``save_label`` to ``on_save_label``; another version may be the current one by then.
    """

    info: AnnotationInfo

    def __new__(cls, label_id: str, info: AnnotationInfo) -> "SubmittedLabel":
        label = super().__new__(cls, label_id)
        label.info = info
        return label


class AnnotationStore(ReadyMadeStore):
    """Images, annotations and predictions in a folder; only what a person painted is ever an annotation."""

    def __init__(
        self,
        studies: str,
        scheme: LabelScheme,
        unpainted: Unpainted = "unlabelled",
        unlabelled: ZeroMeans | None = None,
        largest_upload: int | None = None,
    ) -> None:
        """Open the datastore.

        Args:
            studies, scheme, unpainted, unlabelled: see ``ReadyMadeStore``.
            largest_upload: bytes of memory that decoding an uploaded file may take; None: ``default_limit``.
        """
        super().__init__(studies, scheme, unpainted, unlabelled)
        self.largest_upload = largest_upload or default_limit()

    # Submissions

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> SubmittedLabel:
        """Store what a person painted, as the next version of the image's annotation.

        Args:
            image_id: the image.
            label_filename: label file of any accepted format.
            label_tag: ``final``; only the server writes other tags.
            label_info: the request's parameters; only ``label_info`` (names of the label's values) and ``client_id``
                are used.

        Raises:
            InputError: the label can't be used.
            Locked: others have been changing the datastore for too long.
            HTTPException: 404 for an unknown image, 503 if too many files are waiting to be decoded.
            OSError: the disk failed. On any exception nothing has changed.
        """
        tag = str(getattr(label_tag, "value", label_tag))
        self._require(image_id)
        if tag != FINAL:
            raise InputError(
                f"tag {tag!r}: submit labels under the tag {FINAL!r}; only the server itself writes others"
            )
        if not isinstance(label_info, Mapping):
            raise InputError(f"params: {label_info!r}; expected an object with label_info and client_id")
        with _naming(label_filename, f"the submitted {self._to_id(label_filename)[1]} label"):
            submission = decode_submission(
                label_filename,
                self.get_image_uri(image_id),
                label_info.get("label_info"),
                self.scheme,
                self.largest_upload,
            )
        with self._preparing() as change:
            files = self._write_files(change, submission.annotation, submission.affine, submission.slicer_affine)
            with self._changing(change):
                info = self._add_version(change, image_id, submission, files, label_info.get("client_id"))
        return SubmittedLabel(image_id, info)

    # Predictions

    def prediction_info(self, image_id: str) -> PredictionInfo:
        """Return the label info of the latest prediction of an image; empty if there is none."""
        info: PredictionInfo = self.get_label_info(image_id, PREDICTION)
        return info

    def save_prediction(
        self,
        image_id: str,
        prediction: NDArray[np.uint8],
        entropy: NDArray[np.uint8],
        affine: NDArray[np.float64],
        info: PredictionInfo,
    ) -> None:
        """Store a prediction and its uncertainty; write the prediction in the format of the image, too.

        Args:
            image_id: the image.
            prediction: (X, Y, Z), 0 background, 1 … K foreground.
            entropy: (X, Y, Z), 0 … 255, see ``inference.entropy``.
            affine: (4, 4) of the image.
            info: what to keep with it.

        Raises:
            HTTPException: 404 for an unknown image.
        """
        names = {name: value for value, name in enumerate(predicted_segments(self.scheme), start=1)}
        known: PredictionInfo = {"time": now(), **info}
        labelled: PredictionInfo = {**known, "label_names": names}
        maps = {UNCERTAINTY: (entropy, known), PREDICTION: (prediction, labelled)}
        with self._preparing() as change:
            written = {
                tag: change.write_label(Path(self._datastore.label_path(tag)), array, affine)
                for tag, (array, _) in maps.items()
            }
            with self._changing(change):
                # Somebody may have removed the image while the model was at work.
                self._require(image_id)
                for tag, (_, its_info) in maps.items():
                    self._set_label(change, image_id, tag, written[tag], its_info)
        path = Path(self.get_image_uri(image_id))
        write_like_image(self.folder, image_id, path, prediction, affine, self.scheme)

    # What clients may do

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store an uploaded image.

        A single channel of an image (``image_files``) is refused, because Slicer would then ask for an image of the
        channel's name, which wouldn't exist.

        Raises:
            InputError: the image can't be read, or another image has its name.
            Locked: others have been changing the datastore for too long.
            HTTPException: 503 if too many files are waiting to be decoded.
        """
        stem, ext = split_ending(os.path.basename(image_filename))
        image_id = image_id or stem
        if not re.fullmatch(r"[^./\\][^/\\]*", image_id):
            raise InputError(f"image name {image_id!r}: give a plain file name, without folders or a leading dot")
        if len(os.fsencode(image_id)) > LONGEST_NAME:
            raise InputError(f"image name {image_id[:20]!r}…: too long; give at most {LONGEST_NAME} bytes in UTF-8")
        if not ext:
            ending = os.path.splitext(image_filename)[1]
            raise InputError(f"image {image_id!r}: its file ends in {ending!r}; send one of {', '.join(endings())}")
        if not is_image(Path(image_filename)):
            raise InputError(
                f"image {image_id!r}: its file is a segmentation of 3D Slicer, not an image; submit it as the label of "
                "its image"
            )
        with _naming(image_filename, f"image {image_id!r}"):
            if self._is_stored(image_id, image_filename):
                return image_id
        folder, name = Path(self._datastore.image_path()), image_id + ext
        with self._preparing() as change:
            copied = change.copy(Path(image_filename), folder, ext)
            with self._changing(change):
                # Another client may have sent it in the meantime.
                if image_id in self._datastore.objects and self._is_stored(image_id, image_filename):
                    return image_id
                change.objects = self._scanned(trust_index=True, adding=name)
                if image_id not in change.objects:
                    raise InputError(
                        f"image {image_id!r}: a name that ends in _ and four digits stands for one channel of an "
                        "image; choose another name, send all channels in one file, or put the files of all channels "
                        "into the folder that is served"
                    )
                change.put(copied, folder / name)
                info = {**(image_info or {}), "ts": int(time.time()), "name": name}
                change.set_image(image_id, DataModel(info=info, ext=ext))
        return image_id

    def _is_stored(self, image_id: str, path: str) -> bool:
        """Check that an uploaded image can be read, and tell whether it is in the datastore already.

        Raises:
            InputError: it can't be read, or another image has its name.
        """
        is_known = image_id in self._datastore.objects
        if is_same_image(path, self.get_image_uri(image_id) if is_known else None, self.largest_upload):
            return True
        if is_known:
            raise InputError(f"image {image_id!r}: another image has this name already; choose another name")
        return False

    def note_offer(self, image_id: str, strategy: str, client_id: str | None) -> None:
        """Remember that a strategy offered an image to a client just now.

        Raises:
            HTTPException: 404 for an unknown image.
        """
        with self._changing() as change:
            image = self._require(image_id).image
            offer: Offer = {"ts": int(time.time()), "client_id": client_id}
            offers = {**image.info.get("strategy", {}), strategy: offer}
            change.set_image(image_id, DataModel(ext=image.ext, info={**image.info, "strategy": offers}))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to the label info of a label.

        Raises:
            HTTPException: 404 for an unknown label.
        """
        with self._changing() as change:
            label = self._require_label(label_id, label_tag)
            known = {**label.info, **info}
            change.put_json(self._info_path(label_id, label_tag), known)
            change.set_label(label_id, label_tag, DataModel(ext=label.ext, info=known))

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return a ZIP file of the annotated images (all their files, or copies without patient data) and annotations.

        The layout is that of MONAI Label: ``image/``, ``label/``, ``metadata.json``. The caller removes the file.

        Raises:
            HTTPException: 404 if nothing is annotated.
            InputError: an image lacks a channel.
            OSError: there is too little space for it.
        """
        annotated = self.get_labeled_images()
        if not annotated:
            not_found("no image is annotated yet")
        if limit_cases and limit_cases > 0:
            annotated = annotated[:limit_cases]
        images = dict.fromkeys(path for image_id in annotated for path in self._files_to_send(image_id))
        files = [(file, file.relative_to(path.parent)) for path in images for file in all_files(path)]
        labels = [Path(self.get_label_uri(image_id, FINAL)) for image_id in annotated]
        names = [(file, f"image/{name.as_posix()}") for file, name in files]
        names += [(path, f"label/{path.name}") for path in labels]
        return write_archive(names, json.dumps(self.json()))

    def _files_to_send(self, image_id: str) -> tuple[Path, ...]:
        """Return the files of an image; of one whose files say who the patient is, a copy that doesn't.

        Raises:
            InputError: a file is missing or can't be read.
            OSError: the copy can't be written.
        """
        files = self.image_files(image_id)
        return (self.path_for_slicer(image_id),) if any(format_of(path).is_private for path in files) else files


@contextmanager
def _naming(file: str, name: str) -> Iterator[None]:
    """In error messages, replace the temporary path of an uploaded file by a name that the client knows."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(file, name)) from error
