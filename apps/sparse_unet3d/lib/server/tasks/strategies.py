"""Which image is offered next for annotation."""

import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.strategy import Strategy

from lib.core.errors import InputError
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.annotations import FINAL
from lib.server.store.datastore import PREDICTION, AnnotationStore

from .suggestions import Suggestions, described

logger = logging.getLogger(__name__)

PASSED_OVER = 3600
"""Seconds for which an image that was offered, and that nobody annotated since, counts as passed over, or in work."""


class Sparse(Strategy):
    """Offers all images, also annotated ones: that with the fewest annotated slices first.

    Who presses Next Sample again without submitting anything wants another image, and what somebody else was just
    offered is being painted: those that were just offered come after all others, the one offered longest ago first.
    Where several have as few slices, so it goes as well, then by name. Those that were found unreadable come last: the
    annotator has been told, and can go on with the others.
    """

    def __init__(self) -> None:
        super().__init__("Image with the fewest annotated slices")

    def __call__(self, request: Mapping[str, Any], datastore: AnnotationStore) -> dict[str, Any] | None:
        images = _ordered(datastore, lambda image_id: _annotated_slices(image_id, datastore))
        return {"id": images[0]} if images else None


class NextSlice(Strategy):
    """Offers the image of which the latest prediction was least sure, and says which of its slices to annotate.

    That prediction may be of an earlier model; it is made anew of the image that is offered only. Images of which there
    is none yet count as the mean of the others; without any, and before there is a model, the image with the fewest
    annotated slices comes first. Otherwise as ``Sparse``.
    """

    def __init__(self, suggestions: Suggestions) -> None:
        super().__init__("Image of which the latest prediction was least sure, and the slice to paint next")
        self.suggestions = suggestions

    def __call__(self, request: Mapping[str, Any], datastore: AnnotationStore) -> dict[str, Any] | None:
        values = {image_id: _uncertainty(image_id, datastore) for image_id in datastore.list_images()}
        known = {image_id: value for image_id, value in values.items() if value is not None}
        mean = sum(known.values()) / len(known) if known else 0.0

        def rank(image_id: str) -> tuple[float, int]:
            return -known.get(image_id, mean), _annotated_slices(image_id, datastore)

        for image_id in _ordered(datastore, rank):
            if image_id not in datastore.list_images():
                continue
            # Whoever has a broken image is told so, now or by what loads it.
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
                # It can be annotated all the same, and isn't to stand in the way of the others.
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
                    "expected_gain": self.suggestions.gain(),
                    "note": note,
                }
        return None


def _ordered(datastore: AnnotationStore, merit: Callable[[str], Any]) -> list[str]:
    """Return all images: those of the least merit first, that weren't just offered and that can be read."""
    recently = time.time() - PASSED_OVER

    def rank(image_id: str) -> tuple[bool, int, Any, int, str]:
        annotation = datastore.get_label_info(image_id, FINAL)
        offered = _offered(datastore.get_image_info(image_id))
        passed_over = offered > max(recently, annotation.get("ts", 0))
        unreadable = datastore.is_unreadable(image_id)
        return unreadable, offered if passed_over else 0, merit(image_id), offered, image_id

    return sorted(datastore.list_images(), key=rank)


def _annotated_slices(image_id: str, datastore: AnnotationStore) -> int:
    statistics = datastore.get_label_info(image_id, FINAL).get("statistics", {})
    return sum(map(len, statistics.get("annotated_slices", [])))


def _uncertainty(image_id: str, datastore: AnnotationStore) -> float | None:
    """Return how unsure the latest prediction was, None if unknown; clients may have written anything there."""
    value = datastore.get_label_info(image_id, PREDICTION).get("uncertainty")
    return value if isinstance(value, int | float) and 0 <= value <= 1 else None


def _offered(image_info: Mapping[str, Any]) -> int:
    """Return when the image was offered last, by any strategy, 0 for never; clients may have written anything there."""
    by_strategy = image_info.get("strategy")
    offers = by_strategy.values() if isinstance(by_strategy, Mapping) else ()
    stamps = [offer.get("ts") for offer in offers if isinstance(offer, Mapping)]
    return max((stamp for stamp in stamps if isinstance(stamp, int)), default=0)
