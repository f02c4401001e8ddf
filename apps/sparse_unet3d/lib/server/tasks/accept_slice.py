"""The infer task behind a click in 3D Slicer: it copies the stored prediction of a class in a slice into the paint."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.core.errors import InputError
from lib.core.volumes.reading import read_geometry
from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore
from lib.server.store.predictions import stored_prediction

from .infer import Segmentation, result_ending, write_result

DESCRIPTION = (
    "Copies the stored prediction of one class in one slice into your paint, to be corrected and submitted. Choose the "
    "class as label, then click once in the slice, in the view across the image's third axis: red for images recorded "
    "in axial slices, yellow for sagittal, green for coronal ones. Slices in the other views can't be filled"
)


class AcceptSlice(InferTask):
    """Copies a slice of the stored prediction into the annotator's paint.

    It stores nothing: a prediction becomes annotation only when a person submits it. The task is offered once there is
    a model.
    """

    def __init__(self, conf: Conf, datastore: AnnotationStore, segmentation: Segmentation) -> None:
        # It has no labels, because on each image that it loads, the plugin runs the first model that has one of the
        # app's labels.
        super().__init__(type=InferType.DEEPGROW, labels=None, dimension=2, description=DESCRIPTION)
        self.scheme = conf.scheme
        self.datastore = datastore
        self.segmentation = segmentation

    def is_valid(self) -> bool:
        return self.segmentation.is_valid()

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Cut a slice out of the stored prediction of an image.

        Args:
            request: ``image`` is the image's file, ``image_id`` its name in the datastore, ``label`` a painted class,
                ``slice`` the slice's index along the third axis as 3D Slicer counts, ``result_extension`` the ending
                of the result file.

        Returns:
            A temporary label file on the image as Slicer shows it, 1 where the prediction has the class in the slice
            and 0 elsewhere; and a description of it.

        Raises:
            InputError: there is no such class or slice, no prediction fits, or it lacks the class in this slice.
        """
        ending = result_ending(request)
        label, k = request.get("label"), request.get("slice")
        if label not in self.scheme.classes:
            raise InputError(
                f"label {label!r}: a prediction can be copied into painted classes only; choose one of "
                f"{', '.join(self.scheme.classes)} as label, then click"
            )
        image_id = request.get("image_id")
        if image_id is None:
            raise InputError(
                "slices can be accepted only in images of the studies folder, because no prediction of other images is "
                "kept; put the image there and load it by Next Sample"
            )
        image = read_geometry(request["image"])
        try:
            prediction = stored_prediction(self.datastore, image_id, image, self.scheme)
        except InputError as error:
            raise InputError(f"{error}; press Run first, then click again") from error
        if type(k) is not int or not 0 <= k < image.shape[2]:
            raise InputError(
                f"slice {k!r}: the image has slices 0 … {image.shape[2] - 1}; click inside it, in the view across "
                "its third axis"
            )
        # A prediction has value 0 for the background.
        value = (self.scheme.background, *self.scheme.foreground).index(label)
        accepted = np.zeros(image.shape, dtype=np.uint8)
        index = image.slice_from_slicer(k)
        accepted[:, :, index] = prediction[:, :, index] == value
        count = np.count_nonzero(accepted[:, :, index])
        if not count:
            raise InputError(
                f"the model predicts no {label} in slice {k} across the image's third axis, so nothing is changed; "
                "paint it, or click in another slice"
            )
        return write_result(accepted, image, ending), {"label_names": {label: 1}, "slice": k, "voxels": int(count)}
