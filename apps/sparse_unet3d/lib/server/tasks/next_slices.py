"""The infer task that shows in 3D Slicer which slices to annotate next."""

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.core.errors import InputError
from lib.core.labels import ANNOTATE_HERE
from lib.server.slicer.marks import mark_slices
from lib.server.slicer.slice_names import SliceNames

from .infer import result_ending, write_result
from .suggestions import NOTHING_LEFT, Suggestions, described

COUNT = 3
"""Slices that are marked unless the request says how many."""

MOST = 30
"""Slices that may be asked for; each takes a moment."""


class NextSlices(InferTask):
    """Marks the slices that are worth annotating next, in a segment that never counts as paint.

    Offered as soon as there is a model: before, it would be the one that the plugin's Run button runs.
    """

    def __init__(self, suggestions: Suggestions) -> None:
        # Without labels, as the plugin runs the first model that has one of the app's on every image that it loads.
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=None,
            dimension=3,
            description=f"Marks the slices that are worth painting next, in the segment '{ANNOTATE_HERE}'",
            config={"slices": COUNT},
        )
        self.suggestions = suggestions

    def is_valid(self) -> bool:
        return self.suggestions.segmentation.is_valid()

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Mark slices of an image of the datastore.

        Args:
            request: ``image_id`` is the image's name, ``slices`` how many are wanted, ``result_extension`` the ending
                of the result file.

        Returns:
            A temporary label file over the image as 3D Slicer shows it, 1 where a mark is, empty if every slice is
            annotated; which slices these are, and how much IoU the next one is expected to bring.

        Raises:
            InputError: an image that isn't in the datastore, or no number of slices.
        """
        ending = result_ending(request)
        image_id, count = request.get("image_id"), request.get("slices", COUNT)
        if image_id is None:
            raise InputError(
                "slices are suggested in images of the studies folder only; put the image there and load it by Next "
                "Sample"
            )
        if type(count) is not int or not 1 <= count <= MOST:
            raise InputError(f"slices: {count!r}; give a whole number from 1 to {MOST}")
        volume, suggestions, note = self.suggestions.of(image_id, count)
        marks = mark_slices(volume.shape, [suggestion.place for suggestion in suggestions])
        names = SliceNames.of(volume)
        info = {
            "label_names": {ANNOTATE_HERE: 1},
            "slices": [described(suggestion, volume, names) for suggestion in suggestions],
            "expected_gain": self.suggestions.gain(),
            "note": note if suggestions else NOTHING_LEFT,
        }
        return write_result(marks, volume, ending), info
