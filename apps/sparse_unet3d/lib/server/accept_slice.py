"""The infer task behind a click in 3D Slicer: a slice of a painted class is filled with what the model said last."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.labels import PREDICTED
from ..core.volumes import Volume, onto_grid, read_label_map, read_volume
from .conf import Conf
from .datastore import PREDICTION, AnnotationStore
from .infer import Segmentation, result_ending, write_result

DESCRIPTION = (
    "Fills a slice of a painted class with the stored prediction, to be corrected and submitted. Choose the class as "
    "label, then click once in the slice, in the view across the image's third axis: red for images recorded in axial "
    "slices, yellow for sagittal, green for coronal ones. Slices in the other views can't be filled"
)


class AcceptSlice(InferTask):
    """Hands a slice of the stored prediction over to the annotator.

    Nothing is stored here: a prediction becomes annotation by a person's submission only. Offered as soon as there
    is a model to predict with, on images of a local datastore.
    """

    def __init__(self, conf: Conf, datastore: Datastore, segmentation: Segmentation) -> None:
        # Without labels, as the plugin runs the first model that has one of the app's on every image that it loads.
        super().__init__(type=InferType.DEEPGROW, labels=None, dimension=2, description=DESCRIPTION)
        self.scheme = conf.scheme
        self.datastore = datastore
        self.segmentation = segmentation

    def is_valid(self) -> bool:
        return isinstance(self.datastore, AnnotationStore) and self.segmentation.is_valid()

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Cut a slice out of the stored prediction of an image.

        Args:
            request: ``image`` is the image's file, ``image_id`` its name in the datastore, ``label`` a painted class,
                ``slice`` the slice's index along the third axis as 3D Slicer counts, ``result_extension`` the ending
                of the result file.

        Returns:
            A temporary label file over the image as Slicer shows it, 1 where the prediction has the class in the
            slice, 0 in all the rest; and what is known of it.

        Raises:
            InputError: no such class or slice, no prediction that fits, or nothing of the class in the slice.
        """
        ending = result_ending(request)
        label, k = request.get("label"), request.get("slice")
        if label not in self.scheme.classes:
            raise InputError(
                f"label {label!r}: slices are accepted into painted classes; choose one of "
                f"{', '.join(self.scheme.classes)} as label, then click"
            )
        volume = read_volume(request["image"])
        prediction, names = self._prediction(request.get("image_id"), volume)
        if type(k) is not int or not 0 <= k < volume.shape[2]:
            raise InputError(
                f"slice {k!r}: the image has slices 0 … {volume.shape[2] - 1}; click inside of it, in the view across "
                "its third axis"
            )
        # Where no class is predicted, background is.
        is_class = prediction == names.get(label + PREDICTED, 0)
        accepted = np.zeros(volume.shape, dtype=np.uint8)
        index = volume.slice_from_slicer(k)
        accepted[:, :, index] = is_class[:, :, index]
        count = int(accepted.sum())
        if not count:
            raise InputError(
                f"the model predicts no {label} in slice {k} across the image's third axis, so nothing is changed; "
                "paint it, or click in another slice"
            )
        return write_result(accepted, volume, ending), {"label_names": {label: 1}, "slice": k, "voxels": count}

    def _prediction(self, image_id: str | None, volume: Volume) -> tuple[NDArray[np.integer[Any]], dict[str, int]]:
        """Return the stored prediction on the volume's grid, and its values by name."""
        if image_id is None:
            raise InputError(
                "slices can be accepted in images of the studies folder only, since of others no prediction is "
                "kept; put the image there and load it by Next Sample"
            )
        if PREDICTION not in self.datastore.get_labels_by_image_id(image_id):
            raise InputError(f"image {image_id!r}: there is no prediction of it yet; press Run first, then click again")
        names: dict[str, int] = self.datastore.get_label_info(image_id, PREDICTION).get("label_names", {})
        if set(names) != set(self.scheme.predicted):
            raise InputError(
                f"image {image_id!r}: the stored prediction is one of {', '.join(names) or 'unknown classes'}, not of "
                f"{', '.join(self.scheme.predicted)}; press Run, then click again"
            )
        try:
            return onto_grid(read_label_map(self.datastore.get_label_uri(image_id, PREDICTION)), volume), names
        except InputError as error:
            raise InputError(f"{error}. Press Run, which makes the prediction anew, then click again") from error
