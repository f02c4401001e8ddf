"""The infer task that marks in 3D Slicer which slices to annotate next."""

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.core.errors import InputError
from lib.server.slicer.marks import mark_slices
from lib.server.slicer.segments import ANNOTATE_HERE
from lib.server.slicer.slice_names import SliceNames

from .infer import result_ending, write_result
from .suggestions import NOTHING_LEFT, Suggestions, described

COUNT = 3
"""Number of slices to mark by default."""

MOST = 30
"""Largest number of slices in a request; each takes a moment."""


class NextSlices(InferTask):
    """Marks the slices to annotate next, in a segment that never counts as paint.

    The task is offered only once there is a model; before that, the plugin's Run button would run it.
    """

    def __init__(self, suggestions: Suggestions) -> None:
        # It has no labels, because on each image that it loads, the plugin runs the first model that has one of the
        # app's labels.
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
            request: ``image_id`` is the image's name, ``slices`` the number of slices, ``result_extension`` the ending
                of the result file.

        Returns:
            A temporary label file on the image as 3D Slicer shows it, 1 at marks and empty if every slice is
            annotated; and a description of these slices with the IoU that the next one is expected to add.

        Raises:
            InputError: the image isn't in the datastore, or ``slices`` isn't an integer from 1 to ``MOST``.
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
            **self.suggestions.described_gain(),
            "note": note if suggestions else NOTHING_LEFT,
        }
        return write_result(marks, volume, ending), info
