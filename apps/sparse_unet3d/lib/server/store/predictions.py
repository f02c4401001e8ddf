"""Stored predictions: which model made them, and whether they fit the image and the classes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.model import Model
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_label_map
from lib.core.volumes.volume import Placed
from lib.server.records import ModelFacts, PredictionInfo
from lib.server.slicer.segments import predicted_segments

from .datastore import PREDICTION, AnnotationStore


def facts(model: Model) -> ModelFacts:
    """Return what is stored with a prediction about the model that made it."""
    return {
        "run": model.run,
        "epoch": model.epoch,
        "metric": model.metric,
        "score": model.score,
        "statistics": model.plan.statistics,
    }


def is_by(model: Model, info: PredictionInfo) -> bool:
    """Tell whether a model made the prediction with this label info; earlier versions stored fewer keys."""
    kept, known = info.get("model"), facts(model)
    return isinstance(kept, Mapping) and {**known, **kept} == known


def stored_prediction(store: AnnotationStore, image_id: str, image: Placed, scheme: LabelScheme) -> NDArray[np.uint8]:
    """Return the stored prediction of an image, by any model.

    Args:
        store: the datastore.
        image_id: the image's name.
        image: its grid.
        scheme: the label scheme.

    Returns:
        (X, Y, Z) on the image's grid, 0 background, 1 … K foreground.

    Raises:
        InputError: there is none, it can't be read, or it was made for another image or other classes.
    """
    if PREDICTION not in store.get_labels_by_image_id(image_id):
        raise InputError(f"image {image_id!r}: there is no prediction of it yet")
    info = store.prediction_info(image_id)
    names, expected = list(info.get("label_names", {})), predicted_segments(scheme)
    if names != list(expected):
        raise InputError(
            f"image {image_id!r}: the stored prediction has {', '.join(names) or 'unknown classes'}, not "
            f"{', '.join(expected)}"
        )
    # Earlier versions of this software didn't store the checksum.
    if info.get("image") is not None and info["image"] != store.checksum(image_id):
        raise InputError(f"image {image_id!r}: the stored prediction belongs to an earlier image of this name")
    return onto_grid(read_label_map(store.get_label_uri(image_id, PREDICTION)), image).astype(np.uint8, copy=False)
