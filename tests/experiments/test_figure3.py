"""Pictures of surfaces, pixel by pixel."""

import io

import numpy as np
from PIL import Image

from experiments.figure3 import draw_surfaces


def seen(labels: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    """The picture (rows, columns, 3) of labels in red and blue."""
    png = draw_surfaces(labels, spacing, ["#ff0000", "#0000ff"])
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.linalg.norm(grid - np.array(centre), axis=-1) < radius


def test_without_labels_the_picture_is_white() -> None:
    assert (seen(np.zeros((20, 20, 20), np.uint8)) == 255).all()


def test_a_class_of_a_single_voxel_is_left_out() -> None:
    labels = ball((40, 40, 40), (20, 20, 20), 12).astype(np.uint8)
    without = seen(labels)
    labels[2, 2, 2] = 2
    np.testing.assert_array_equal(seen(labels), without)


def test_a_ball_is_as_wide_as_high_and_in_its_colour() -> None:
    picture = seen(ball((40, 40, 40), (20, 20, 20), 12).astype(np.uint8))
    rows, columns = np.nonzero((picture != 255).any(axis=2))
    height, width = np.ptp(rows), np.ptp(columns)
    assert height > 100
    assert abs(height / width - 1) < 0.1
    drawn = picture[rows, columns]
    assert (drawn[:, 0] >= drawn[:, 2]).mean() > 0.95


def test_the_inner_class_shows_through_the_outer_one() -> None:
    labels = np.where(ball((40, 40, 40), (20, 20, 20), 15), 2, 0).astype(np.uint8)
    hidden = seen(labels)
    labels[ball((40, 40, 40), (20, 20, 20), 7)] = 1
    middle = (slice(hidden.shape[0] // 2 - 10, hidden.shape[0] // 2 + 10), slice(540, 560))
    assert seen(labels)[middle][..., 0].mean() > hidden[middle][..., 0].mean() + 20 or (
        seen(labels)[middle][..., 2].mean() < hidden[middle][..., 2].mean() - 20
    )


def test_z_is_up_and_x_to_the_right() -> None:
    shape = (40, 40, 40)
    for low, high, axis in (((20, 20, 8), (20, 20, 32), 0), ((32, 20, 20), (8, 20, 20), 1)):
        first = np.nonzero((seen(ball(shape, low, 5).astype(np.uint8)) != 255).any(axis=2))[axis].mean()
        second = np.nonzero((seen(ball(shape, high, 5).astype(np.uint8)) != 255).any(axis=2))[axis].mean()
        assert second < first
