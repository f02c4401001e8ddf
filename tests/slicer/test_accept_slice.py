"""A click in the real plugin fills a slice of a painted segment with the model's prediction."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from annotator import CLASSES, Annotator
from images import AFFINES
from serving import SHAPE, paint, stored, write_image

MODEL = "accept_slice"
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("published")]


@pytest.fixture(params=["RAS", "left-handed", "oblique, left-handed"])
def annotator(
    request: pytest.FixtureRequest,
    open_slicer: Callable[..., Annotator],
    serve: Callable[..., None],
    tmp_path: Path,
) -> Annotator:
    """An annotator who has opened an image and painted it."""
    serve(write_image(tmp_path / "image.nii.gz", affine=AFFINES[request.param], seed=1))
    annotator = open_slicer(autoRunSegmentationOnNextSample=False)
    annotator.next_sample()
    annotator.paint_annotation(paint())
    return annotator


def masks(annotator: Annotator) -> dict[str, np.ndarray]:
    return {name: annotator.painted(name) for name in annotator.segments()}


@pytest.mark.parametrize("overlap", [True, False])
def test_one_click_fills_that_slice_of_that_segment(annotator: Annotator, studies: Path, overlap: bool) -> None:
    annotator.run()
    predicted = stored(studies, "prediction", "image") == 2
    # The prediction is noise. The slice has predicted voxels of the class on unpainted voxels and on other classes.
    slices = [k for k in range(SHAPE[2]) if k not in (4, 6) and predicted[:, :, k].any()]
    k = max(slices, key=lambda k: int(predicted[:, :, k].sum()))
    assert (predicted[:, :, k] & (paint()[:, :, k] == 3)).any()
    before = masks(annotator)
    if overlap:
        annotator.allow_overlap()
    annotator.click_point("tubule", (10, 9, k), MODEL)
    after = masks(annotator)

    expected = before["tubule"].copy()
    expected[:, :, k] |= predicted[:, :, k]
    assert (after["tubule"] != before["tubule"]).any()
    assert (after["tubule"] == expected).all()
    for name in annotator.segments():
        if name == "tubule":
            continue
        # As with Slicer's brushes, other segments lose these voxels unless overlap is allowed.
        left = before[name].copy()
        if not overlap:
            left[:, :, k] &= ~predicted[:, :, k]
        assert (after[name] == left).all(), name
    assert annotator.errors == []

    # It becomes annotation when it is submitted.
    annotator.submit()
    final = stored(studies, "final", "image")
    layers = np.stack([after[name] for name in CLASSES])
    last = len(CLASSES) - layers[::-1].argmax(axis=0)
    assert (final == np.where(layers.any(axis=0), last, 0)).all()


def test_without_a_prediction_the_annotator_is_told_what_to_do(annotator: Annotator) -> None:
    before = masks(annotator)
    annotator.click_point("tubule", (10, 9, 5), MODEL)
    (error,) = annotator.errors
    assert "press Run first" in error.text
    after = masks(annotator)
    assert all((after[name] == before[name]).all() for name in before)
