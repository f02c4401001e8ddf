"""Agreement of the stored predictions with the annotations."""

import logging
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from monailabel.interfaces.tasks.scoring import ScoringMethod
from numpy.typing import NDArray

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import Unpainted, annotated_slices, fill_unpainted
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map
from lib.core.volumes.working_grid import WorkingGrid
from lib.server.records import ImageScores, PredictionInfo, Scores
from lib.server.stopping import raise_if_stopping
from lib.server.store.annotations import FINAL
from lib.server.store.datastore import PREDICTION, AnnotationStore
from lib.server.store.predictions import stored_prediction

logger = logging.getLogger(__name__)


class ScoringResult(TypedDict, total=False):
    """What the scoring replies.

    Attributes:
        images: scores of each image.
        all: scores over all annotated voxels of these images together.
        learnt: scores over the voxels that the published model learnt from; only if there is a model.
        held_out: scores over the held-out voxels; only if there is a model.
        note: which predictions another model made; only if there are any.
    """

    images: dict[str, ImageScores]
    all: Scores
    learnt: Scores
    held_out: Scores
    note: str


class IouScoring(ScoringMethod):
    """IoU of the latest prediction and the annotation, by class, on annotated voxels (section 4.1)."""

    def __init__(self, scheme: LabelScheme, unpainted: Unpainted, folder: ModelFolder | None = None) -> None:
        super().__init__("IoU of prediction and annotation on annotated voxels, also for learnt and held-out ones")
        self.scheme = scheme
        self.unpainted = unpainted
        self.folder = folder

    def __call__(self, request: Mapping[str, Any], datastore: AnnotationStore) -> dict[str, Any]:
        """Score all images that have a prediction and an annotation; store the scores in the predictions' info too.

        ``learnt`` and ``held_out`` exist only for predictions of the published model. Neither includes voxels that were
        painted after that model's training, or held-out voxels too close to learnt ones.

        Returns:
            A ``ScoringResult``.
        """
        model = self._published()
        total = _Counts(self.scheme)
        images: dict[str, ImageScores] = {}
        for image_id in sorted(datastore.get_labeled_images()):
            raise_if_stopping()
            if PREDICTION not in datastore.get_labels_by_image_id(image_id):
                continue
            try:
                image = read_geometry(datastore.get_image_uri(image_id))
                prediction = stored_prediction(datastore, image_id, image, self.scheme)
                label = read_label_map(datastore.get_label_uri(image_id, FINAL))
                annotation = onto_grid(label, image).astype(np.uint8, copy=False)
            except InputError as error:
                logger.error(error)
                continue
            slices = annotated_slices(annotation)
            if self.unpainted == "background":
                annotation = fill_unpainted(annotation, slices, self.scheme)
            counts = _Counts(self.scheme)
            counts.add("all", prediction, annotation)
            everywhere = counts.scores("all")
            scores: ImageScores = {"iou": everywhere["iou"], "mean_iou": everywhere["mean_iou"]}
            if model:
                scores["by_published_model"] = _is_by(model, datastore.prediction_info(image_id))
                if scores["by_published_model"]:
                    grid = WorkingGrid.of(image.shape, image.spacing, model.plan.spacing)
                    learnt, held_out = model.split.part_known(image_id, Paint(annotation), slices, grid)
                    counts.add("learnt", prediction, learnt.array())
                    counts.add("held_out", prediction, held_out.array())
                    scores["learnt"], scores["held_out"] = counts.scores("learnt"), counts.scores("held_out")
            total.add_all(counts)
            images[image_id] = scores
            datastore.update_label_info(image_id, PREDICTION, {**scores})
        result: ScoringResult = {"images": images, "all": total.scores("all")}
        if model:
            result["learnt"], result["held_out"] = total.scores("learnt"), total.scores("held_out")
            others = [image_id for image_id, scores in images.items() if not scores["by_published_model"]]
            if others:
                result["note"] = (
                    f"the predictions of {', '.join(others)} aren't by the published model. It is unknown what their "
                    "model learnt from, so they count in 'all' only. Run the model on these images and score again"
                )
        return {**result}

    def _published(self) -> Model | None:
        """Return the published model; None if there is none that fits."""
        if self.folder is None or not self.folder.is_published():
            return None
        try:
            return self.folder.load(self.scheme)
        except InputError as error:
            logger.error(error)
            return None


def _is_by(model: Model, info: PredictionInfo) -> bool:
    """Tell whether a model made a prediction, with any statistics of batch normalisation."""
    made_by = info.get("model")
    return isinstance(made_by, Mapping) and (made_by.get("run"), made_by.get("epoch")) == (model.run, model.epoch)


class _Counts:
    """Counts of true and predicted classes: on all annotated voxels, on learnt ones, and on held-out ones."""

    def __init__(self, scheme: LabelScheme) -> None:
        classes = len(scheme.classes)
        self.scheme = scheme
        self.by_part = {part: np.zeros((classes, classes), dtype=np.int64) for part in ("all", "learnt", "held_out")}

    def add(self, part: str, prediction: NDArray[np.uint8], annotation: NDArray[np.uint8]) -> None:
        self.by_part[part] += confusion(prediction, annotation, self.scheme)

    def add_all(self, others: "_Counts") -> None:
        for part, counts in others.by_part.items():
            self.by_part[part] += counts

    def scores(self, part: str) -> Scores:
        iou = iou_per_class(self.by_part[part], self.scheme)
        return {"iou": iou, "mean_iou": mean_iou(iou)}
