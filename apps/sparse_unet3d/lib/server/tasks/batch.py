"""Batch inference: the predictions of many images, of which one that fails isn't the end."""

import logging
from collections.abc import Mapping
from typing import Any, TypedDict

from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.core.errors import InputError
from lib.server.stopping import raise_if_stopping
from lib.server.store.datastore import AnnotationStore

from .infer import Segmentation

logger = logging.getLogger(__name__)


class BatchResult(TypedDict):
    """What became of the images.

    Attributes:
        segmented: names of the images that have a new prediction.
        failed: why the others have none, by name.
    """

    segmented: list[str]
    failed: dict[str, str]


def segment_images(segmentation: Segmentation, datastore: AnnotationStore, request: Mapping[str, Any]) -> BatchResult:
    """Segment images one after the other, and store the predictions.

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
    most = int(request.get("max_batch_size") or len(images))
    result = BatchResult(segmented=[], failed={})
    for image_id in images[:most]:
        raise_if_stopping()
        try:
            segmentation.predict(datastore.get_image_uri(image_id), image_id)
            result["segmented"].append(image_id)
        except (InputError, OSError) as error:
            logger.error("%s isn't segmented: %s", image_id, error)
            result["failed"][image_id] = str(error)
    logger.info("%d images are segmented, %d have failed", len(result["segmented"]), len(result["failed"]))
    return result
