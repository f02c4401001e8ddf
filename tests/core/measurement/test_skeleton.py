"""Lengths of tubes whose axis is known."""

import numpy as np
import pytest

import shapes
from lib.core.measurement.skeleton import skeleton_length

RADIUS = 3.0


def capsule(shape, start, end, radius=RADIUS):
    """Return the voxels within a radius of a line."""
    at = np.stack(np.indices(shape), axis=-1) - np.array(start, float)
    along = np.subtract(end, start).astype(float)
    share = np.clip(at @ along / (along @ along), 0, 1)
    return np.linalg.norm(at - share[..., None] * along, axis=-1) < radius


@pytest.mark.parametrize("end", [(90, 10, 10), (90, 50, 10), (90, 60, 40)], ids=["axis", "plane", "space"])
def test_a_straight_tube_in_any_direction(end):
    """The skeleton may lack a radius at each end, and be longer by as much."""
    start = (10, 10, 10)
    found = skeleton_length(capsule((100, 70, 50), start, end), np.eye(4))
    assert found == pytest.approx(np.linalg.norm(np.subtract(end, start)), abs=2 * RADIUS)


def test_branches_add_up():
    middle = (40, 40, 10)
    ends = [(8, 40, 10), (62, 12, 10), (62, 68, 10)]
    star = np.any([capsule((80, 80, 20), middle, end) for end in ends], axis=0)
    found = skeleton_length(star, np.eye(4))
    assert found == pytest.approx(sum(np.linalg.norm(np.subtract(end, middle)) for end in ends), abs=3 * RADIUS)


@pytest.mark.parametrize("seed", range(3))
def test_bumps_on_a_tube_add_no_branches(seed):
    tube = bumpy = capsule((100, 40, 40), (10, 20, 20), (90, 20, 20), radius=9)
    rng = np.random.default_rng(seed)
    for x, angle in zip(rng.integers(20, 80, 6), rng.uniform(0, 2 * np.pi, 6), strict=True):
        bump = (x, 20 + 9 * np.cos(angle), 20 + 9 * np.sin(angle))
        bumpy = bumpy | capsule(tube.shape, bump, np.add(bump, [0.1, 0, 0]), radius=3.5)
    assert skeleton_length(bumpy, np.eye(4)) == pytest.approx(skeleton_length(tube, np.eye(4)), rel=0.01)


def test_length_is_in_millimetres_of_the_affine():
    mask = shapes.torus(shapes.places(40, (1, 1, 1)), 15, 3)
    assert skeleton_length(mask, np.diag([3.0, 3.0, 3.0, 1.0])) == pytest.approx(3 * skeleton_length(mask, np.eye(4)))
    assert skeleton_length(mask, np.eye(4)) == pytest.approx(2 * np.pi * 15, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 1, 2)])
def test_a_few_voxels(shape):
    assert 0 <= skeleton_length(np.ones(shape, bool), np.eye(4)) <= 1.8
