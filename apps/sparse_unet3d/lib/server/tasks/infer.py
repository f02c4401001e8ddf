"""The infer task behind 3D Slicer's Run button: the dense segmentation of an image."""

import logging
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from numpy.typing import NDArray

from lib.core.annotation.suggestion import mean_by_class
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.inference.segmenter import Segmenter
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model, check_fit
from lib.core.volumes.reading import write_label_map
from lib.core.volumes.volume import Placed, Volume
from lib.server.conf import Conf
from lib.server.records import PredictionInfo
from lib.server.slicer.segments import predicted_segments
from lib.server.stopping import raise_if_stopping
from lib.server.store.datastore import PREDICTION, AnnotationStore
from lib.server.store.decoding import decode_image
from lib.server.store.predictions import facts, is_by

logger = logging.getLogger(__name__)

RESULT_ENDINGS = (".nii.gz", ".nii", ".nrrd")


class Segmentation(InferTask):
    """Segments with the published model, and stores the result as the image's prediction.

    The task is offered only if a published model fits the server's label scheme.
    """

    def __init__(self, conf: Conf, datastore: AnnotationStore) -> None:
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={name: value for value, name in enumerate(predicted_segments(conf.scheme), start=1)},
            dimension=3,
            description="Dense segmentation by the published model",
        )
        self.conf = conf
        self.datastore = datastore
        self.folder = ModelFolder(conf.models)
        self._one_at_a_time = threading.Lock()
        self._loaded: tuple[int, Model | InputError] | None = None
        self._segmenter: Segmenter | None = None
        self._latest: tuple[object, tuple[NDArray[np.uint8], NDArray[np.uint8]]] | None = None

    def model(self) -> Model:
        """Return the published model; read it again only if its file changed.

        Raises:
            InputError: there is none, or it doesn't fit the label scheme.
        """
        if not self.folder.is_published():
            raise InputError("there is no model yet; paint some slices, submit them and train first")
        changed = self.folder.published.stat().st_mtime_ns
        if self._loaded is None or self._loaded[0] != changed:
            try:
                model = self.folder.load(self.conf.scheme)
                self._loaded = changed, replace(model, plan=model.plan.with_statistics(self.conf.plan))
            except InputError as error:
                logger.error(error)
                self._loaded = changed, error
        loaded = self._loaded[1]
        if isinstance(loaded, InputError):
            raise loaded
        return loaded

    def is_valid(self) -> bool:
        try:
            self.model()
        except InputError:
            return False
        return True

    def info(self) -> dict[str, Any]:
        model = self.model()
        spacing = "the image's own spacing" if model.plan.spacing is None else f"spacing {model.plan.spacing}"
        description = f"{self.description}: width {model.plan.width}, {spacing}, {model.metric} {model.score:.3f}"
        return {**super().info(), "description": description}

    def get_path(self, validate: bool = True) -> str | None:
        """Return the model file for downloads; with ``validate`` False, MONAI Label asks where to put an upload."""
        return str(self.folder.published) if validate and self.folder.is_published() else None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment an image.

        Args:
            request: ``image`` is the image's file, ``image_id`` its name in the datastore (or None),
                ``result_extension`` the ending of the result file.

        Returns:
            A temporary label file on the image as 3D Slicer shows it, 0 background and values from 1 as in
            ``label_names``; and a description of it.

        Raises:
            InputError: there is no model, or the image can't be read or has another number of channels.
        """
        ending = result_ending(request)
        volume, prediction, info = self.predict(request["image"], request.get("image_id"))
        return write_result(prediction, volume, ending), {**info}

    def predict(self, image: str, image_id: str | None) -> tuple[Volume, NDArray[np.uint8], PredictionInfo]:
        """Segment an image, and store the prediction if the image is in the datastore.

        Args:
            image: its file.
            image_id: its name in the datastore; None for another image.

        Returns:
            The volume; the prediction (X, Y, Z), 0 background and 1 … K foreground; and a description of it.

        Raises:
            InputError: there is no model, or the image can't be read or has another number of channels.
        """
        # One at a time, for memory: reading belongs to it.
        with self._one_at_a_time:
            return self._predict(image, image_id)

    def is_up_to_date(self, image_id: str) -> bool:
        """Tell whether the stored prediction of an image is by the published model, of the image as it is now.

        Raises:
            InputError: there is no model, or the image can't be read.
        """
        info = self.datastore.prediction_info(image_id)
        return (
            PREDICTION in self.datastore.get_labels_by_image_id(image_id)
            and is_by(self.model(), info)
            and info.get("image") == self.datastore.checksum(image_id)
        )

    def _predict(self, image: str, image_id: str | None) -> tuple[Volume, NDArray[np.uint8], PredictionInfo]:
        began = time.monotonic()
        model = self.model()
        if image_id:
            volume, checksum = self.datastore.read_image(image_id)
        else:
            volume = decode_image(image, self.conf.upload)
            checksum = volume.checksum()
        try:
            check_fit(self.folder.published, model.plan, self.conf.scheme, volume.channels)
        except InputError as error:
            raise InputError(f"{volume.name}: {error}") from error
        prediction, entropy = self._segment(model, volume, checksum, image)
        info: PredictionInfo = {
            "model": facts(model),
            "image": checksum,
            "uncertainty": round(mean_by_class(prediction, entropy), 4),
            "seconds": round(time.monotonic() - began, 1),
        }
        if image_id:
            self.datastore.save_prediction(image_id, prediction, entropy, volume.affine, info)
        info["label_names"] = self.labels
        return volume, prediction, info

    def _segment(
        self, model: Model, volume: Volume, checksum: int, image: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return labels and entropy; return the last ones again if neither the model nor the image has changed.

        3D Slicer runs the model by itself after Next Sample, whose strategy may just have segmented the image.
        """
        if self._segmenter is None or self._segmenter.network is not model.network:
            self._segmenter, self._latest = Segmenter.of(model), None
        key = volume.array.shape, checksum
        if self._latest is None or self._latest[0] != key:
            logger.info("Segmenting %s", image)
            machine = this_machine(self.conf.memory)
            self._latest = key, self._segmenter.segment_with_entropy(volume, machine, _LogProgress(image))
        return self._latest[1]


def result_ending(request: Mapping[str, Any]) -> str:
    """Return the ending of the result file that a request asks for.

    Raises:
        InputError: files with this ending can't be written.
    """
    ending = request.get("result_extension") or RESULT_ENDINGS[0]
    if ending not in RESULT_ENDINGS:
        raise InputError(f"result_extension {ending!r}: choose one of {', '.join(RESULT_ENDINGS)}")
    return str(ending)


def write_result(array: NDArray[np.uint8], volume: Placed, ending: str) -> str:
    """Write a map (X, Y, Z) to a temporary file, in the geometry in which 3D Slicer shows the volume.

    The server removes the file after sending it, or when the server ends.
    """
    with tempfile.NamedTemporaryFile(prefix="prediction-", suffix=ending, delete=False) as file:
        result = Path(file.name)
    write_label_map(result, array, volume.affine if volume.slicer_affine is None else volume.slicer_affine)
    return str(result)


class _LogProgress:
    """Logs every tenth of the work, and ends the work when the server is being stopped."""

    def __init__(self, image: str) -> None:
        self.image, self.logged = image, 0

    def __call__(self, done: float) -> None:
        raise_if_stopping()
        tenths = int(done * 10)
        if tenths > self.logged:
            self.logged = tenths
            logger.info("Segmenting %s: %d %%", self.image, 10 * tenths)
