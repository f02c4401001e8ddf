"""The real plugin shows marks where to paint next, and the marks never count as paint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from annotator import Annotator
from images import AFFINES
from lib.core.annotation.slices import AnnotatedSlice
from lib.server.slicer.marks import mark_slices
from serving import SHAPE, paint, stored, write_image

pytestmark = pytest.mark.usefixtures("published")


@pytest.mark.parametrize("place", ["RAS", "left-handed", "oblique, left-handed"])
def test_marks_appear_and_never_count_as_paint(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], studies: Path, tmp_path: Path, place: str
) -> None:
    serve(write_image(tmp_path / "image.nii.gz", affine=AFFINES[place], seed=1))
    annotator = open_slicer(autoRunSegmentationOnNextSample=False)
    assert annotator.next_sample("next_slice") == "image"
    suggested = annotator.sample["slice"]
    annotator.paint_annotation(paint())
    assert "of all objects and uncertainty" in annotator.submit()["paint_next"]

    annotator.run("next_slices")
    marks = annotator.painted("annotate here")
    # Three slices are marked, none of those that are annotated.
    marked = [
        AnnotatedSlice(axis, index)
        for axis in range(3)
        for index in range(SHAPE[axis])
        if np.take(marks, index, axis=axis)[0].all() and np.take(marks, index, axis=axis)[:, 0].all()
    ]
    assert len(marked) == 3
    np.testing.assert_array_equal(marks, mark_slices(SHAPE, marked))
    assert not [slice_ for slice_ in marked if np.take(paint(), slice_.index, axis=slice_.axis).all()]
    assert 0 <= suggested["index"] < SHAPE[suggested["axis"]]
    # Paint lies over the marks, and only paint is submitted.
    assert (annotator.annotation() == paint()).all()
    assert annotator.submit()["warnings"] == []
    assert (stored(studies, "final", "image") == paint()).all()

    annotator.run()
    assert annotator.painted("annotate here").any()
    assert annotator.errors == []
