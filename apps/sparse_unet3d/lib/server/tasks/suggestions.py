"""Which slices of a stored image to annotate next, according to the latest prediction."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.expected_gain import ExpectedGain, expected_gain
from lib.core.annotation.slices import AnnotatedSlice, fill_unpainted
from lib.core.annotation.suggestion import Evidence, Suggestion, suggest_slices
from lib.core.errors import InputError
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map
from lib.core.volumes.volume import Geometry, Placed
from lib.server.conf import Conf
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.datastore import UNCERTAINTY, AnnotationStore
from lib.server.store.predictions import is_by, stored_prediction

from .infer import Segmentation

logger = logging.getLogger(__name__)

NOTHING_LEFT = "nothing is left to paint in this image: every slice is annotated; go on with another image"


class Suggestions:
    """Suggests slices; predicts an image again if its prediction isn't by the published model."""

    def __init__(self, conf: Conf, store: AnnotationStore, segmentation: Segmentation) -> None:
        self.scheme, self.unpainted = conf.scheme, conf.plan.unpainted
        self.store, self.segmentation = store, segmentation

    def of(self, image_id: str, count: int, at_once: bool = False) -> tuple[Geometry, list[Suggestion], str]:
        """Suggest slices of an image.

        Args:
            image_id: the image.
            count: how many slices to suggest.
            at_once: use the stored prediction, of any model, instead of predicting again.

        Returns:
            The image's grid; the suggestions in the order to paint them, none if every slice is annotated or every
            voxel is labelled; and a note for people, which may be empty.

        Raises:
            InputError: the image or its annotation can't be read.
        """
        image = read_geometry(self.store.get_image_uri(image_id))
        statistics = self.store.current(image_id).get("statistics")
        painted = annotated = _places(statistics["annotated_slices"] if statistics else [])
        if statistics and self.unpainted == "unlabelled":
            # These may be stray dabs that nobody meant as slices.
            dabs = _places(statistics.get("mostly_unpainted", []))
            annotated = [place for place in annotated if place not in dabs]
        # If unpainted voxels count as background, annotating every slice across one axis labels all voxels.
        across = Counter(place.axis for place in painted)
        filled = self.unpainted == "background" and any(across[axis] == n for axis, n in enumerate(image.shape))
        whole = statistics is not None and statistics["labelled_voxels"] == math.prod(image.shape)
        if filled or whole or len(annotated) == sum(image.shape):
            return image, [], ""
        evidence, note = self._evidence(image_id, image, painted, at_once)
        if evidence is not None and evidence.annotation.all():
            return image, [], ""
        return image, suggest_slices(image.shape, annotated, count, evidence), note

    def paint_next(self, image_id: str) -> str | None:
        """Return a line for the annotator about the slice of an image to paint next, or None if that failed.

        It doesn't predict anything, because the annotator waits for the reply to the submission.
        """
        try:
            image, suggestions, note = self.of(image_id, 1, at_once=True)
            gain = self.gain()
        except Exception:
            # The submission is stored; a failure here must not make it look as if it weren't.
            logger.exception("No slice is suggested in %s", image_id)
            return None
        if not suggestions:
            return NOTHING_LEFT
        (suggestion,) = suggestions
        brings = ""
        if gain is not None:
            brings = (
                f"; judging by the slices so far, it adds about {gain.mean:.3f} IoU ({gain.low:.3f} to {gain.high:.3f})"
            )
        older = f" ({note})" if note and suggestion.score is not None else ""
        return f"{_named(suggestion, SliceNames.of(image))}: {suggestion.why}{older}{brings}"

    def gain(self) -> ExpectedGain | None:
        """Return the validation IoU that the next slice is expected to add; None if too few scores are known."""
        scored = self.segmentation.folder.history()
        return expected_gain([(one["slices"], one["score"]) for one in scored if one["metric"] == "validation IoU"])

    def described_gain(self) -> dict[str, Any]:
        """Return what replies say about ``gain``."""
        gain = self.gain()
        return {
            "expected_gain": None if gain is None else round(gain.mean, 4),
            "expected_gain_interval": None if gain is None else [round(gain.low, 4), round(gain.high, 4)],
        }

    def _evidence(
        self, image_id: str, image: Geometry, painted: Sequence[AnnotatedSlice], at_once: bool
    ) -> tuple[Evidence | None, str]:
        """Return the model's evidence, or None if there is none to use; and a note for people."""
        try:
            model = self.segmentation.model()
        except InputError as error:
            return None, f"the slices are spread evenly: {error}"
        if at_once and not self.store.has_read(image_id):
            return None, "the slices are spread evenly: the image hasn't been read since the server started"
        is_latest = is_by(model, self.store.prediction_info(image_id))
        if at_once or is_latest:
            try:
                evidence = self._stored(image_id, image, painted)
                return evidence, "" if is_latest else "by an earlier model's prediction"
            except InputError as error:
                if at_once:
                    return None, f"the slices are spread evenly: {error}"
                logger.warning("Predicting %s again: %s", image_id, error)
        self.segmentation.predict(self.store.get_image_uri(image_id), image_id)
        return (
            self._stored(image_id, image, painted),
            "the image was segmented again, because its prediction wasn't by the published model",
        )

    def _stored(self, image_id: str, image: Geometry, painted: Sequence[AnnotatedSlice]) -> Evidence:
        """Return the evidence of the stored prediction.

        Raises:
            InputError: there is none, it can't be read, or it was made for another image or other classes.
        """
        # Reading large maps takes seconds, and a person waits.
        with ThreadPoolExecutor() as pool:
            labels = pool.submit(stored_prediction, self.store, image_id, image, self.scheme)
            entropy = pool.submit(self._uncertainty, image_id, image)
            annotation = pool.submit(self._annotation, image_id, image, painted)
        return Evidence(self.scheme, annotation.result(), labels.result(), entropy.result())

    def _uncertainty(self, image_id: str, image: Geometry) -> NDArray[np.uint8]:
        if UNCERTAINTY not in self.store.get_labels_by_image_id(image_id):
            raise InputError(f"image {image_id!r}: no {UNCERTAINTY} is stored")
        entropy = onto_grid(read_label_map(self.store.get_label_uri(image_id, UNCERTAINTY)), image)
        return entropy.astype(np.uint8, copy=False)

    def _annotation(self, image_id: str, image: Geometry, painted: Sequence[AnnotatedSlice]) -> NDArray[np.uint8]:
        if image_id not in self.store.get_labeled_images():
            return np.zeros(image.shape, dtype=np.uint8)
        annotation = self.store.annotation(image_id, image, self.scheme)
        return fill_unpainted(annotation, painted, self.scheme) if self.unpainted == "background" else annotation


def _places(by_axis: Sequence[Sequence[int]]) -> list[AnnotatedSlice]:
    """Return the slices that statistics list by axis."""
    return [AnnotatedSlice(axis, index) for axis, indices in enumerate(by_axis) for index in indices]


class SuggestedSlice(TypedDict):
    """A suggestion as JSON.

    Attributes:
        axis: 0, 1, 2 in the order of the file.
        index: of the slice along the axis, in the order of the file.
        name: as 3D Slicer shows and counts it.
        position: middle of the slice, RAS in mm.
        score: 0 … 1; None without a model.
        why: the reason, for people.
    """

    axis: int
    index: int
    name: str
    position: list[float]
    score: float | None
    why: str


def described(suggestion: Suggestion, volume: Placed, names: SliceNames) -> SuggestedSlice:
    """Return a suggestion as JSON."""
    axis, index = suggestion.place
    middle = [(length - 1) / 2 for length in volume.shape]
    middle[axis] = index
    affine = volume.affine if volume.slicer_affine is None else volume.slicer_affine
    return {
        "axis": axis,
        "index": index,
        "name": _named(suggestion, names),
        # Microscopes have voxels of less than a micrometre; more digits are noise.
        "position": [round(float(value), 9) for value in (affine @ [*middle, 1.0])[:3]],
        "score": suggestion.score,
        "why": suggestion.why,
    }


def _named(suggestion: Suggestion, names: SliceNames) -> str:
    axis, index = suggestion.place
    return names.text([[index] if other == axis else [] for other in range(3)])
