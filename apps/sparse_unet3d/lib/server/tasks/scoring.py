"""How well the stored predictions agree with the annotations."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from numpy.typing import NDArray

from lib.core.annotation.slices import Unpainted, annotated_slices, fill_unpainted
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_label_map, read_volume
from lib.core.volumes.working_grid import WorkingGrid
from lib.server.store.annotations import FINAL
from lib.server.store.datastore import PREDICTION
from lib.server.store.predictions import stored_prediction

logger = logging.getLogger(__name__)


class IouScoring(ScoringMethod):
    """IoU by class of the latest prediction against the annotation, on annotated voxels (section 4.1)."""

    def __init__(self, scheme: LabelScheme, unpainted: Unpainted, folder: ModelFolder | None = None) -> None:
        super().__init__("IoU of prediction and annotation on annotated voxels; learnt and held out are told apart")
        self.scheme = scheme
        self.unpainted = unpainted
        self.folder = folder

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all images that have both; the scores are kept in the predictions' label info too.

        Returns:
            ``images``: by image ``iou`` by class and ``mean_iou``; ``all``: the same over all voxels together. Where a
            model is published, also ``by_published_model`` for each image, and where that is true ``learnt`` and
            ``held_out``, with the same scores on what that model learnt from and on what was held out; both likewise
            beside ``all``. Voxels painted since, and those near learnt ones that aren't judged, are in neither.
            ``note`` says which predictions are by another model.
        """
        model = self._published()
        total = _Counts(self.scheme)
        images: dict[str, dict[str, Any]] = {}
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
            slices = annotated_slices(annotation)
            if self.unpainted == "background":
                annotation = fill_unpainted(annotation, slices, self.scheme)
            counts = _Counts(self.scheme)
            counts.add("all", prediction, annotation)
            scores = counts.scores("all")
            if model:
                scores["by_published_model"] = _is_by(model, datastore.get_label_info(image_id, PREDICTION))
                if scores["by_published_model"]:
                    grid = WorkingGrid.of(volume.shape, volume.spacing, model.plan.spacing)
                    learnt, held_out = model.split.part_known(image_id, annotation, slices, grid)
                    counts.add("learnt", prediction, learnt)
                    counts.add("held_out", prediction, held_out)
                    scores |= {part: counts.scores(part) for part in ("learnt", "held_out")}
            total.add_all(counts)
            images[image_id] = scores
            datastore.update_label_info(image_id, PREDICTION, scores)
        result: dict[str, Any] = {"images": images, "all": total.scores("all")}
        if model:
            result |= {part: total.scores(part) for part in ("learnt", "held_out")}
            others = [image_id for image_id, scores in images.items() if not scores["by_published_model"]]
            if others:
                result["note"] = (
                    f"not by the published model: the predictions of {', '.join(others)}; what their model learnt from "
                    "isn't known, so they count in 'all' only. Run the model on these images and score again"
                )
        return result

    def _published(self) -> Model | None:
        """Return the published model; None if there is none that fits."""
        if self.folder is None or not self.folder.is_published():
            return None
        try:
            return self.folder.load(self.scheme)
        except InputError as error:
            logger.error(error)
            return None


def _is_by(model: Model, info: Mapping[str, Any]) -> bool:
    """Tell whether a model made a prediction, by whichever statistics."""
    made_by = info.get("model")
    return isinstance(made_by, Mapping) and (made_by.get("run"), made_by.get("epoch")) == (model.run, model.epoch)


class _Counts:
    """Counts of true and predicted classes, by what voxels they are of."""

    def __init__(self, scheme: LabelScheme) -> None:
        classes = len(scheme.classes)
        self.scheme = scheme
        self.of = {part: np.zeros((classes, classes), dtype=np.int64) for part in ("all", "learnt", "held_out")}

    def add(self, part: str, prediction: NDArray[np.uint8], annotation: NDArray[np.uint8]) -> None:
        self.of[part] += confusion(prediction, annotation, self.scheme)

    def add_all(self, others: "_Counts") -> None:
        for part, counts in others.of.items():
            self.of[part] += counts

    def scores(self, part: str) -> dict[str, Any]:
        iou = iou_per_class(self.of[part], self.scheme)
        return {"iou": iou, "mean_iou": mean_iou(iou)}
