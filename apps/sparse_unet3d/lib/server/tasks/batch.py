"""Batch inference: the predictions of many images, of which one that fails isn't the end."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, TypedDict

from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.core.inference.many import choose_processes, each_or_why
from lib.server.conf import Conf
from lib.server.stopping import raise_if_stopping
from lib.server.store.datastore import AnnotationStore

from .datastore import open_datastore
from .infer import Segmentation

logger = logging.getLogger(__name__)


class BatchResult(TypedDict):
    """What became of the images.

    Attributes:
        segmented: names of the images that have a new prediction.
        up_to_date: names of those that had one by the same model already.
        failed: why the others have none, by name.
    """

    segmented: list[str]
    up_to_date: list[str]
    failed: dict[str, str]


def segment_images(segmentation: Segmentation, datastore: AnnotationStore, request: Mapping[str, Any]) -> BatchResult:
    """Segment images as the command ``segment`` does, and store the predictions.

    MONAI Label's own batch inference divides the images among GPUs, also where there is none, and ends at an image that
    can't be read.

    Args:
        segmentation: segments one image.
        datastore: has the images.
        request: ``images`` is ``all``, ``labeled`` or ``unlabeled``; ``max_batch_size`` is the most images, 0 for all.

    Raises:
        Stopped: the process is to end; the predictions made so far are stored.
    """
    images = sorted(BatchInferTask().get_images(request, datastore))
    images = images[: int(request.get("max_batch_size") or len(images))]
    conf = segmentation.conf
    processes = choose_processes(len(images), None, conf.memory, raise_if_stopping)
    if processes.count == 1:
        work = partial(_segment, segmentation)
    else:
        work = partial(_segment_there, replace(conf, memory=processes.memory))
    logger.info("Segmenting %d images, %d at a time", len(images), processes.count)
    became: dict[str, dict[str, str]] = {"segmented": {}, "up_to_date": {}, "failed": {}}
    for number, (image_id, outcome) in enumerate(each_or_why(work, images, processes), start=1):
        if outcome in ("segmented", "up_to_date"):
            became[outcome][image_id] = ""
            logger.info("%d of %d: %s is %s", number, len(images), image_id, outcome.replace("_", " "))
        else:
            became["failed"][image_id] = outcome
            logger.error("%d of %d: %s isn't segmented: %s", number, len(images), image_id, outcome)
    logger.info("%s", ", ".join(f"{len(of_them)} {what.replace('_', ' ')}" for what, of_them in became.items()))
    return BatchResult(
        segmented=sorted(became["segmented"]),
        up_to_date=sorted(became["up_to_date"]),
        failed=dict(sorted(became["failed"].items())),
    )


def _segment(segmentation: Segmentation, image_id: str) -> Literal["segmented", "up_to_date"]:
    raise_if_stopping()
    if segmentation.is_up_to_date(image_id):
        return "up_to_date"
    segmentation.predict(segmentation.datastore.get_image_uri(image_id), image_id)
    return "segmented"


def _segment_there(conf: Conf, image_id: str) -> Literal["segmented", "up_to_date"]:
    """As ``_segment``, in another process."""
    return _segment(_segmentation(conf), image_id)


@lru_cache(maxsize=1)
def _segmentation(conf: Conf) -> Segmentation:
    """Open a datastore, once in each process."""
    return Segmentation(conf, open_datastore(conf))
