"""Which slices of an image of the datastore are worth annotating next, by the latest prediction."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.annotations import AnnotatedSlice, fill_unpainted
from ..core.errors import InputError
from ..core.slice_names import SliceNames
from ..core.suggestion import Evidence, Suggestion, expected_gain, suggest_slices
from ..core.volumes import Volume, onto_grid, read_label_map, read_volume
from .conf import Conf
from .datastore import PREDICTION, UNCERTAINTY, AnnotationStore
from .infer import Segmentation
from .predictions import is_by, stored_prediction
from .versions import FINAL

logger = logging.getLogger(__name__)

NOTHING_LEFT = "nothing is left to paint in this image: every slice is annotated; go on with another one"


class Suggestions:
    """Suggests slices; predicts anew where there is no prediction by the model in use."""

    def __init__(self, conf: Conf, store: AnnotationStore, segmentation: Segmentation) -> None:
        self.scheme, self.unpainted = conf.scheme, conf.plan.unpainted
        self.store, self.segmentation = store, segmentation

    def of(self, image_id: str, count: int, at_once: bool = False) -> tuple[Volume, list[Suggestion], str]:
        """Suggest slices of an image.

        Args:
            image_id: the image.
            count: how many are wanted.
            at_once: go by what was predicted last, by whichever model, rather than predict anew.

        Returns:
            The image; the suggestions in the order to paint them, none if every slice is annotated, or every voxel
            labelled; and a note for people, empty if there is nothing to say.

        Raises:
            InputError: the image or its annotation can't be read.
        """
        volume = read_volume(self.store.get_image_uri(image_id))
        annotation = np.zeros(volume.shape, dtype=np.uint8)
        if FINAL in self.store.get_labels_by_image_id(image_id):
            annotation = self._map(image_id, FINAL, volume)
        statistics = self.store.get_label_info(image_id, FINAL).get("statistics", {})
        annotated = _places(statistics.get("annotated_slices", []))
        if self.unpainted == "background":
            annotation = fill_unpainted(annotation, annotated, self.scheme)
        else:
            # Nobody may have meant these dabs as slices.
            dabs = _places(statistics.get("mostly_unpainted", []))
            annotated = [place for place in annotated if place not in dabs]
        if annotation.all() or len(annotated) == sum(volume.shape):
            return volume, [], ""
        evidence, note = self._evidence(image_id, volume, annotation, at_once)
        return volume, suggest_slices(volume.shape, annotated, count, evidence), note

    def paint_next(self, image_id: str) -> str | None:
        """Return in a line, for the annotator, which slice of an image to paint next; None if that can't be told.

        Nothing is predicted for it, so that the reply to a submission comes soon.
        """
        try:
            volume, suggestions, note = self.of(image_id, 1, at_once=True)
            gain = self.gain()
        except Exception:
            # What was submitted is stored, and isn't to look as if it weren't, whatever goes wrong here.
            logger.exception("No slice is suggested in %s", image_id)
            return None
        if not suggestions:
            return NOTHING_LEFT
        (suggestion,) = suggestions
        brings = "" if gain is None else f"; going by the slices so far it brings about {gain:.3f} IoU"
        older = f" ({note})" if note and suggestion.score is not None else ""
        return f"{_named(suggestion, SliceNames.of(volume))}: {suggestion.why}{older}{brings}"

    def gain(self) -> float | None:
        """Return how much validation IoU the next slice is expected to bring; None if there is too little to go by."""
        scored = self.segmentation.folder.history()
        gain = expected_gain([(one["slices"], one["score"]) for one in scored if one["metric"] == "validation IoU"])
        return None if gain is None else round(gain, 4)

    def _evidence(
        self, image_id: str, volume: Volume, annotation: NDArray[np.uint8], at_once: bool
    ) -> tuple[Evidence | None, str]:
        """Return what the model says, and a note; None where it says nothing, so that slices are spread evenly."""
        try:
            model = self.segmentation.model()
        except InputError as error:
            return None, f"the slices are spread evenly: {error}"
        is_latest = is_by(model, self.store.get_label_info(image_id, PREDICTION))
        if at_once or is_latest:
            try:
                evidence = self._stored(image_id, volume, annotation)
                return evidence, "" if is_latest else "by an earlier model's prediction"
            except InputError as error:
                if at_once:
                    return None, f"the slices are spread evenly: {error}"
                logger.warning("The prediction of %s is made anew: %s", image_id, error)
        self.segmentation.predict(self.store.get_image_uri(image_id), image_id)
        return (
            self._stored(image_id, volume, annotation),
            "the image was segmented anew, as there was no prediction by the model in use",
        )

    def _stored(self, image_id: str, volume: Volume, annotation: NDArray[np.uint8]) -> Evidence:
        """Return the evidence of the stored prediction.

        Raises:
            InputError: it isn't there, can't be read, or is of another image or other classes.
        """
        labels = stored_prediction(self.store, image_id, volume, self.scheme)
        return Evidence(self.scheme, annotation, labels, self._map(image_id, UNCERTAINTY, volume))

    def _map(self, image_id: str, tag: str, volume: Volume) -> NDArray[np.uint8]:
        if tag not in self.store.get_labels_by_image_id(image_id):
            raise InputError(f"image {image_id!r}: no {tag} is stored")
        stored = read_label_map(self.store.get_label_uri(image_id, tag))
        return onto_grid(stored, volume).astype(np.uint8)


def _places(by_axis: Sequence[Sequence[int]]) -> list[AnnotatedSlice]:
    """Return slices that ``statistics`` list by axis."""
    return [AnnotatedSlice(axis, index) for axis, indices in enumerate(by_axis) for index in indices]


def described(suggestion: Suggestion, volume: Volume, names: SliceNames) -> dict[str, Any]:
    """Return a suggestion as JSON values.

    Returns:
        ``axis`` and ``index`` in the order of the file; ``name`` as 3D Slicer shows and counts it; ``position``, the
        slice's middle in RAS mm; ``score`` 0 … 1 or None; ``why``.
    """
    axis, index = suggestion.place
    middle = [(length - 1) / 2 for length in volume.shape]
    middle[axis] = index
    affine = volume.affine if volume.slicer_affine is None else volume.slicer_affine
    return {
        "axis": axis,
        "index": index,
        "name": _named(suggestion, names),
        "position": [round(float(value), 3) for value in (affine @ [*middle, 1.0])[:3]],
        "score": suggestion.score,
        "why": suggestion.why,
    }


def _named(suggestion: Suggestion, names: SliceNames) -> str:
    axis, index = suggestion.place
    return names.text([[index] if other == axis else [] for other in range(3)])
