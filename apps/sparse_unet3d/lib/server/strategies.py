"""Which image is offered next for annotation."""

import time
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from .datastore import FINAL, AnnotationStore

PASSED_OVER = 3600
"""Seconds for which an image that a client was offered, and that nobody annotated since, counts as passed over."""


class Sparse(Strategy):
    """Offers all images, also annotated ones: that with the fewest annotated slices first.

    Who presses Next Sample again without submitting anything wants another image: those that were just offered come
    after all others, the one offered longest ago first. Where several have as few slices, so it goes as well, then by
    name. Those that were found unreadable come last: the annotator has been told, and can go on with the others.
    """

    def __init__(self) -> None:
        super().__init__("Image with the fewest annotated slices")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        client, strategy = request.get("client_id"), request["strategy"]
        recently = time.time() - PASSED_OVER

        def rank(image_id: str) -> tuple[bool, int, int, int, str]:
            annotation = datastore.get_label_info(image_id, FINAL)
            slices = sum(map(len, annotation.get("statistics", {}).get("annotated_slices", [])))
            offered = _offered(datastore.get_image_info(image_id), strategy, client)
            passed_over = offered > max(recently, annotation.get("ts", 0))
            unreadable = isinstance(datastore, AnnotationStore) and datastore.is_unreadable(image_id)
            return unreadable, offered if passed_over else 0, slices, offered, image_id

        images = datastore.list_images()
        return {"id": min(images, key=rank)} if images else None


def _offered(image_info: Mapping[str, Any], strategy: str, client: object) -> int:
    """Return when the image was offered to the client last, 0 for never; clients may have written anything there."""
    by_strategy = image_info.get("strategy")
    latest = by_strategy.get(strategy) if isinstance(by_strategy, Mapping) else None
    if not isinstance(latest, Mapping) or latest.get("client_id") != client:
        return 0
    time_stamp = latest.get("ts")
    return time_stamp if isinstance(time_stamp, int) else 0
