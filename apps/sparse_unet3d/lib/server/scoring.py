"""How well the stored predictions agree with the annotations."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from ..core.annotations import Unpainted, annotated_slices, fill_unpainted
from ..core.errors import InputError
from ..core.labels import LabelScheme
from ..core.metrics import confusion, iou_per_class, mean_iou
from ..core.volumes import read_label_map
from .datastore import PREDICTION
from .versions import FINAL

logger = logging.getLogger(__name__)


class IouScoring(ScoringMethod):
    """IoU by class of the latest prediction against the annotation, on annotated voxels (section 4.1)."""

    def __init__(self, scheme: LabelScheme, unpainted: Unpainted) -> None:
        super().__init__("IoU of prediction and annotation on annotated voxels")
        self.scheme = scheme
        self.unpainted = unpainted

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all images that have both; the scores are kept in the predictions' label info too.

        Returns:
            ``images``: by image ``iou`` by class and ``mean_iou``; ``all``: the same over all voxels together.
        """
        classes = len(self.scheme.classes)
        total = np.zeros((classes, classes), dtype=np.int64)
        images = {}
        for image_id in sorted(datastore.get_labeled_images()):
            info = datastore.get_label_info(image_id, PREDICTION)
            if list(info.get("label_names", {})) != list(self.scheme.predicted):
                continue
            try:
                prediction = read_label_map(datastore.get_label_uri(image_id, PREDICTION)).array
                annotation = read_label_map(datastore.get_label_uri(image_id, FINAL)).array.astype(np.uint8)
                if prediction.shape != annotation.shape:
                    raise InputError(f"image {image_id!r}: the prediction is one of another image; run the model again")
            except InputError as error:
                logger.error(error)
                continue
            if self.unpainted == "background":
                annotation = fill_unpainted(annotation, annotated_slices(annotation), self.scheme)
            counts = confusion(prediction.astype(np.uint8), annotation, self.scheme)
            total += counts
            images[image_id] = self._scores(counts)
            datastore.update_label_info(image_id, PREDICTION, images[image_id])
        return {"images": images, "all": self._scores(total)}

    def _scores(self, counts: np.ndarray) -> dict[str, Any]:
        iou = iou_per_class(counts, self.scheme)
        return {"iou": iou, "mean_iou": mean_iou(iou)}
