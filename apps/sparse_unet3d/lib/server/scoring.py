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
from ..core.volumes import onto_grid, read_label_map, read_volume
from .datastore import PREDICTION
from .predictions import stored_prediction
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
            if PREDICTION not in datastore.get_labels_by_image_id(image_id):
                continue
            try:
                volume = read_volume(datastore.get_image_uri(image_id))
                prediction = stored_prediction(datastore, image_id, volume, self.scheme)
                label = read_label_map(datastore.get_label_uri(image_id, FINAL))
                annotation = onto_grid(label, volume).astype(np.uint8)
            except InputError as error:
                logger.error(error)
                continue
            if self.unpainted == "background":
                annotation = fill_unpainted(annotation, annotated_slices(annotation), self.scheme)
            counts = confusion(prediction, annotation, self.scheme)
            total += counts
            images[image_id] = self._scores(counts)
            datastore.update_label_info(image_id, PREDICTION, images[image_id])
        return {"images": images, "all": self._scores(total)}

    def _scores(self, counts: np.ndarray) -> dict[str, Any]:
        iou = iou_per_class(counts, self.scheme)
        return {"iou": iou, "mean_iou": mean_iou(iou)}
