import numpy as np
import pytest
import torch

from lib.core.working_grid import WorkingGrid


def test_own_grid_leaves_everything_alone() -> None:
    grid = WorkingGrid.of((10, 11, 12), (1, 1, 2), None)
    assert grid.is_native
    image = np.random.default_rng(0).random((2, 10, 11, 12)).astype(np.float32)
    assert grid.image(image) is image


def test_half_the_resolution_as_in_the_paper() -> None:
    grid = WorkingGrid.of((496, 488, 128), (0.88, 0.88, 1.02), (1.76, 1.76, 2.04))
    assert grid.working == (248, 244, 64)
    assert grid.voxel_size((0.88, 0.88, 1.02)) == pytest.approx((1.76, 1.76, 2.04))


def test_coarser_image_keeps_positions_and_means() -> None:
    """A linear ramp stays the same ramp in space: voxel j of the working grid lies at (j + 0.5) * 2 - 0.5."""
    grid = WorkingGrid.of((40, 20, 20), (1, 1, 1), (2, 2, 1))
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (1, 40, 20, 20)).copy()
    coarse = grid.image(ramp)
    assert coarse.shape == (1, 20, 10, 20)
    np.testing.assert_allclose(coarse[0, 3:-3, 5, 5], 2 * np.arange(3, 17) + 0.5, atol=0.01)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (3.1, 1, 2), (0.5, 0.7, 1), (1.5, 1.5, 1.5)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_painted_plane_is_lost(axis: int, spacing: tuple[float, ...]) -> None:
    shape = (30, 28, 26)
    grid = WorkingGrid.of(shape, (1, 1, 1), spacing)
    for index in range(0, shape[axis], 3):
        annotation = np.zeros(shape, dtype=np.uint8)
        np.moveaxis(annotation, axis, 0)[index] = 2
        planes = np.moveaxis(grid.annotation(annotation), axis, 0) != 0
        painted = np.flatnonzero(planes.any(axis=(1, 2)))
        assert len(painted) >= 1
        assert planes[painted].all()
        centre = (index + 0.5) * grid.working[axis] / shape[axis] - 0.5
        assert np.abs(painted - centre).max() <= max(0.51, 0.5 * grid.working[axis] / shape[axis] + 0.5)


def test_working_voxel_takes_the_most_frequent_label_in_it() -> None:
    annotation = np.zeros((4, 2, 2), dtype=np.uint8)
    annotation[:2] = [[[1, 2], [2, 0]], [[0, 0], [0, 0]]]
    annotation[2:, 0, 0] = 3
    grid = WorkingGrid.of((4, 2, 2), (1, 1, 1), (2, 2, 2))
    assert grid.annotation(annotation).ravel().tolist() == [2, 3]


def test_prediction_comes_back_onto_the_volumes_grid() -> None:
    """A ball seen on the coarse grid comes back as nearly the same ball."""
    shape = (40, 36, 30)
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    ball = (np.linalg.norm(x - np.array([22, 17, 14]), axis=-1) < 10).astype(np.float32)
    grid = WorkingGrid.of(shape, (1, 1, 1), (2, 2, 2))
    back = grid.back(torch.tensor(grid.image(np.stack([1 - ball, ball]))))
    assert back.shape == (2, *shape)
    found = back.argmax(dim=0).numpy() == 1
    overlap = (found & (ball > 0)).sum() / (found | (ball > 0)).sum()
    assert overlap > 0.93
