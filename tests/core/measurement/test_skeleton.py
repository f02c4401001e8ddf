"""Lengths of tubes whose axis is known."""

import numpy as np
import pytest

import shapes
from lib.core.measurement.skeleton import skeleton_length

RADIUS = 3.0


def tube(shape, *ends):
    """Return voxels within a radius of straight pieces between points."""
    at = np.stack(np.indices(shape), axis=-1).astype(float)
    inside = np.zeros(shape, bool)
    for start, end in zip(ends[::2], ends[1::2], strict=True):
        a, along = np.array(start, float), np.subtract(end, start).astype(float)
        share = np.clip((at - a) @ along / (along @ along), 0, 1)
        inside |= np.linalg.norm(at - a - share[..., None] * along, axis=-1) < RADIUS
    return inside


@pytest.mark.parametrize("end", [(90, 10, 10), (90, 50, 10), (90, 60, 40)], ids=["axis", "plane", "space"])
def test_a_straight_tube_in_any_direction(end):
    """The skeleton may lack a radius at each end, and be longer by as much."""
    start = (10, 10, 10)
    found = skeleton_length(tube((100, 70, 50), start, end), np.eye(4))
    assert found == pytest.approx(np.linalg.norm(np.subtract(end, start)), abs=2 * RADIUS)


def test_branches_add_up():
    middle = (40, 40, 10)
    ends = [(8, 40, 10), (62, 12, 10), (62, 68, 10)]
    found = skeleton_length(tube((80, 80, 20), *(of for end in ends for of in (middle, end))), np.eye(4))
    assert found == pytest.approx(sum(np.linalg.norm(np.subtract(end, middle)) for end in ends), abs=3 * RADIUS)


def test_a_rough_surface_adds_no_branches():
    smooth = tube((100, 24, 24), (10, 12, 12), (90, 12, 12))
    rng = np.random.default_rng(0)
    rough = smooth.copy()
    outside = np.argwhere(np.roll(smooth, 1, 1) & ~smooth | np.roll(smooth, -1, 2) & ~smooth)
    rough[tuple(rng.permutation(outside)[: len(outside) // 8].T)] = True
    assert skeleton_length(rough, np.eye(4)) == pytest.approx(skeleton_length(smooth, np.eye(4)), rel=0.1)


def test_length_is_in_millimetres_of_the_affine():
    mask = shapes.torus(shapes.places(40, (1, 1, 1)), 15, 3)
    assert skeleton_length(mask, np.diag([3.0, 3.0, 3.0, 1.0])) == pytest.approx(3 * skeleton_length(mask, np.eye(4)))
    assert skeleton_length(mask, np.eye(4)) == pytest.approx(2 * np.pi * 15, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 1, 2)])
def test_a_few_voxels(shape):
    assert 0 <= skeleton_length(np.ones(shape, bool), np.eye(4)) <= 1.8
