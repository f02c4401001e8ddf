"""Which image is offered next for annotation."""

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from .datastore import FINAL


class Sparse(Strategy):
    """Offers all images, also annotated ones: that with the fewest annotated slices first.

    Where several have as few, the one that this client was offered longest ago, then the first by name.
    """

    def __init__(self) -> None:
        super().__init__("Image with the fewest annotated slices")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        client, strategy = request.get("client_id"), request["strategy"]

        def rank(image_id: str) -> tuple[int, int, str]:
            statistics = datastore.get_label_info(image_id, FINAL).get("statistics", {})
            slices = sum(map(len, statistics.get("annotated_slices", [])))
            offered = datastore.get_image_info(image_id).get("strategy", {}).get(strategy, {})
            return slices, offered.get("ts", 0) if offered.get("client_id") == client else 0, image_id

        images = datastore.list_images()
        return {"id": min(images, key=rank)} if images else None
