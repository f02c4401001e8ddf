"""Strategies: which image to offer next for annotation."""

import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, cast

from fastapi import HTTPException
from monailabel.interfaces.tasks.strategy import Strategy

from lib.core.errors import InputError
from lib.server.records import ImageInfo
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.datastore import AnnotationStore

from .suggestions import Suggestions, described

logger = logging.getLogger(__name__)

PASSED_OVER = 3600
"""Seconds for which an image counts as passed over, or as being painted, after it was offered and not annotated."""


class Sparse(Strategy):
    """Offers all images, including annotated ones; the image with the fewest annotated slices comes first.

    Images offered within the last hour come after all others; the one offered longest ago comes first. An annotator who
    presses Next Sample again without submitting wants another image, and an image that somebody else was offered is
    being painted. Among images with equally few slices, the one offered longest ago comes first, then the first by
    name. Unreadable images come last, because the annotator has been told and can go on with the others.
    """

    def __init__(self) -> None:
        super().__init__("Image with the fewest annotated slices")

    def __call__(self, request: Mapping[str, Any], datastore: AnnotationStore) -> dict[str, Any] | None:
        images = _ordered(datastore, lambda image_id: (_annotated_slices(image_id, datastore),))
        return {"id": images[0]} if images else None


class NextSlice(Strategy):
    """Offers the image with the most uncertain latest prediction, and says which of its slices to annotate.

    That prediction may come from an earlier model; only the offered image is predicted again. An image without a
    prediction counts as the mean of the others. If no image has one, or there is no model, the image with the fewest
    annotated slices comes first. For the rest of the order see ``Sparse``.
    """

    def __init__(self, suggestions: Suggestions) -> None:
        super().__init__("Image with the most uncertain latest prediction, and the slice to paint next")
        self.suggestions = suggestions

    def __call__(self, request: Mapping[str, Any], datastore: AnnotationStore) -> dict[str, Any] | None:
        values = {image_id: _uncertainty(image_id, datastore) for image_id in datastore.list_images()}
        known = {image_id: value for image_id, value in values.items() if value is not None}
        mean = sum(known.values()) / len(known) if known else 0.0

        def rank(image_id: str) -> tuple[float, ...]:
            return -known.get(image_id, mean), _annotated_slices(image_id, datastore)

        for image_id in _ordered(datastore, rank):
            if image_id not in datastore.list_images():
                continue
            # Loading the image will say why it is broken.
            if datastore.is_unreadable(image_id):
                return {"id": image_id}
            datastore.check_image(image_id)
            try:
                volume, suggestions, note = self.suggestions.of(image_id, 1)
            except HTTPException as error:
                if error.status_code != HTTPStatus.NOT_FOUND:
                    raise
                logger.warning("%s was removed meanwhile: %s", image_id, error.detail)
                continue
            except InputError as error:
                # The image can still be annotated, and must not hold up the others.
                logger.warning("No slice is suggested in %s: %s", image_id, error)
                return {"id": image_id, "note": str(error)}
            except Exception:
                logger.exception("No slice is suggested in %s", image_id)
                return {"id": image_id, "note": "no slice could be suggested; the server's log says why"}
            if suggestions:
                return {
                    "id": image_id,
                    "slice": described(suggestions[0], volume, SliceNames.of(volume)),
                    "uncertainty": _uncertainty(image_id, datastore),
                    **self.suggestions.described_gain(),
                    "note": note,
                }
        return None


def _ordered(datastore: AnnotationStore, sort_key: Callable[[str], tuple[float, ...]]) -> list[str]:
    """Return all images in the order to offer them: ascending by ``sort_key``, with the exceptions of ``Sparse``."""
    recently = time.time() - PASSED_OVER

    def rank(image_id: str) -> tuple[bool, int, tuple[float, ...], int, str]:
        annotation = datastore.current(image_id)
        offered = _offered(cast(ImageInfo, datastore.get_image_info(image_id)))
        passed_over = offered > max(recently, annotation.get("ts", 0))
        unreadable = datastore.is_unreadable(image_id)
        return unreadable, offered if passed_over else 0, sort_key(image_id), offered, image_id

    return sorted(datastore.list_images(), key=rank)


def _annotated_slices(image_id: str, datastore: AnnotationStore) -> int:
    statistics = datastore.current(image_id).get("statistics")
    return sum(map(len, statistics["annotated_slices"])) if statistics else 0


def _uncertainty(image_id: str, datastore: AnnotationStore) -> float | None:
    """Return the uncertainty of the latest prediction, or None."""
    return datastore.prediction_info(image_id).get("uncertainty")


def _offered(image_info: ImageInfo) -> int:
    """Return when any strategy last offered the image, 0 for never."""
    return max((offer["ts"] for offer in image_info.get("strategy", {}).values()), default=0)
