"""Marks as a person sees them in the three views."""

import numpy as np
import pytest

from lib.core.annotation.slices import AnnotatedSlice
from lib.server.slicer.marks import mark_slices

SHAPE = (124, 61, 30)


@pytest.mark.parametrize("place", [AnnotatedSlice(0, 40), AnnotatedSlice(1, 0), AnnotatedSlice(2, 29)])
def test_a_marked_slice_is_framed_and_hatched_but_still_visible(place: AnnotatedSlice) -> None:
    marks = mark_slices(SHAPE, [place])
    across = np.moveaxis(marks, place.axis, 0)
    plane = across[place.index]
    assert plane[0].all()
    assert plane[-1].all()
    assert plane[:, 0].all()
    assert plane[:, -1].all()
    inner = plane[3:-3, 3:-3]
    assert 0.03 < inner.mean() < 0.2
    # Every part of the slice is hatched.
    for rows in np.array_split(inner, 3):
        assert all(part.any() for part in np.array_split(rows, 3, axis=1))
    assert not np.delete(across, place.index, axis=0).any()


def test_a_marked_slice_shows_in_the_other_views() -> None:
    marks = mark_slices(SHAPE, [AnnotatedSlice(2, 7)])
    for axis in (0, 1):
        lines = np.moveaxis(marks, axis, 0)[..., 7]
        # Each of these views' slices has a dotted line.
        assert lines.any(axis=1).all()


def test_marks_of_several_slices_are_combined() -> None:
    places = [AnnotatedSlice(0, 5), AnnotatedSlice(2, 7)]
    together = mark_slices(SHAPE, places)
    np.testing.assert_array_equal(together, mark_slices(SHAPE, places[:1]) | mark_slices(SHAPE, places[1:]))
    assert not mark_slices(SHAPE, []).any()


def test_thin_slices_are_marked_too() -> None:
    assert mark_slices((5, 2, 1), [AnnotatedSlice(0, 2)])[2].all()
