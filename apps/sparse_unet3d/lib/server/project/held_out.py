"""The held-out slices of a project, with paint beside prediction, and how certain the IoU on them is."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice
from lib.core.errors import InputError
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.model.model import Model
from lib.core.training.score import Part, Score
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.reading import read_volume
from lib.core.volumes.working_grid import WorkingGrid
from lib.report.project_page import HeldOutSlice
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.datastore import PREDICTION, AnnotationStore
from lib.server.store.predictions import is_by, stored_prediction

from .volumes import outlined


def held_out_slices(store: AnnotationStore, model: Model) -> tuple[list[HeldOutSlice], Score]:
    """Compare paint and prediction on the slices that the published model's training has held out.

    Only volumes that this model has segmented count. What can't be read is left out.

    Args:
        store: the datastore.
        model: the published model.

    Returns:
        The slices, the worst first; and the score over all of them together.
    """
    slices, parts = list[HeldOutSlice](), list[Part]()
    for image_id in sorted({*model.split.validation, *model.split.blocks} & {*store.get_labeled_images()}):
        if PREDICTION in store.get_labels_by_image_id(image_id) and is_by(model, store.prediction_info(image_id)):
            try:
                for held, part in _of_volume(store, model, image_id):
                    slices.append(held)
                    parts.append(part)
            except (InputError, OSError):
                # The section of the volume says why.
                continue
    worst_first = sorted(slices, key=lambda held: (held.mean is None, held.mean))
    return worst_first, Score.of(parts, model.plan.scheme)


def _of_volume(store: AnnotationStore, model: Model, image_id: str) -> Iterator[tuple[HeldOutSlice, Part]]:
    scheme = model.plan.scheme
    volume = read_volume(store.get_image_uri(image_id))
    paint = Paint(store.annotation(image_id, volume, scheme))
    prediction = stored_prediction(store, image_id, volume, scheme)
    grid = WorkingGrid.of(volume.shape, volume.spacing, model.plan.spacing)
    known = store.current(image_id).get("statistics")
    annotated = [
        AnnotatedSlice(axis, index)
        for axis, indices in enumerate(known["annotated_slices"] if known else [])
        for index in indices
    ]
    scored = model.split.part_known(image_id, paint, annotated, grid)[1].array()
    scaled, names = scale_intensity(volume.array), SliceNames.of(volume)
    for place in _planes(model, image_id):
        part = _part(place, prediction, scored)
        if not len(part[1]):
            continue
        iou = iou_per_class(confusion(part[1], part[2], scheme), scheme)
        picture = outlined(volume, scaled, {"paint": scored, "prediction": prediction}, scheme, place, names)
        yield HeldOutSlice(image_id, iou, mean_iou(iou), picture), part


def _planes(model: Model, image_id: str) -> Sequence[AnnotatedSlice]:
    """Return the held-out planes of an image; of a block of planes, its middle one."""
    blocks = [
        AnnotatedSlice(block.axis, (block.first + block.last) // 2) for block in model.split.blocks.get(image_id, [])
    ]
    return [*model.split.validation.get(image_id, []), *blocks]


def _part(place: AnnotatedSlice, prediction: NDArray[np.uint8], scored: NDArray[np.uint8]) -> Part:
    """Return the scored voxels of a slice."""
    of_slice = np.zeros(scored.shape, bool)
    of_slice[(slice(None),) * place.axis + (place.index,)] = True
    where = np.nonzero(of_slice & (scored > 0))
    return where, prediction[where], scored[where]
