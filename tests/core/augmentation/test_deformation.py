import numpy as np
import pytest
import torch
from scipy import ndimage

from devices import on_each_device
from lib.core.augmentation.deformation import (
    MARGIN,
    Deformation,
    DeformationSettings,
    LinearSampler,
    control_points,
    displacement,
    draw_deformation,
    identity_deformation,
    sample_annotation,
    source_positions,
)

SPACING = 8


def random_deformation(tile: tuple[int, ...], centre: tuple[int, ...], seed: int = 0) -> Deformation:
    settings = DeformationSettings(rotation=30, scaling=0.2, elastic_sd=2, elastic_spacing=SPACING)
    return draw_deformation(np.random.default_rng(seed), centre, tile, settings, [1.0] * len(tile))


@pytest.mark.parametrize("tile", [(20, 33, 17), (25, 40)])
def test_displacement_is_scipys_cubic_spline_through_the_vectors(tile: tuple[int, ...]) -> None:
    deformation = random_deformation(tile, (0,) * len(tile))
    voxels = np.stack(np.meshgrid(*map(np.arange, tile), indexing="ij")) / SPACING + MARGIN
    expected = [ndimage.map_coordinates(v, voxels, order=3, mode="mirror") for v in deformation.vectors]
    np.testing.assert_allclose(displacement(deformation, tile).numpy(), expected, atol=1e-4)


def test_at_a_control_point_the_displacement_is_its_vector() -> None:
    deformation = random_deformation((17, 17, 17), (0, 0, 0))
    field = displacement(deformation, (17, 17, 17)).numpy()
    inside = (slice(None), *[slice(MARGIN, MARGIN + 3)] * 3)
    np.testing.assert_allclose(field[:, ::SPACING, ::SPACING, ::SPACING], deformation.vectors[inside], atol=1e-5)


@on_each_device
@pytest.mark.parametrize(("tile", "volume"), [((12, 15, 9), (20, 18, 10)), ((14, 11), (9, 30))])
def test_sampling_agrees_with_a_plain_loop(tile: tuple[int, ...], volume: tuple[int, ...], device: str) -> None:
    """The image is linear and mirrored outside, the annotation nearest and unlabelled outside. Tiles reach outside."""
    generator = np.random.default_rng(1)
    image = generator.random((2, *volume)).astype(np.float32)
    annotation = generator.integers(0, 4, size=volume).astype(np.uint8)
    deformation = random_deformation(tile, tuple(n - 2 for n in volume))
    positions = source_positions(deformation, tile, device)
    warped = LinearSampler(torch.tensor(image, device=device))(positions).cpu().numpy()
    labels = sample_annotation(torch.tensor(annotation, device=device), positions).cpu().numpy()

    field = displacement(deformation, tile).numpy()
    outside = 0
    for x in np.ndindex(tile):
        offset = np.array(x) - np.array(tile) // 2
        source = deformation.centre + deformation.matrix @ offset + field[(slice(None), *x)]
        for c in range(2):
            value = ndimage.map_coordinates(image[c], source[:, None], order=1, mode="mirror")[0]
            assert warped[(c, *x)] == pytest.approx(value, abs=1e-4)
        nearest = np.round(source).astype(int)
        if np.abs(source - np.floor(source) - 0.5).min() < 1e-3:
            continue
        within = all(0 <= i < n for i, n in zip(nearest, volume, strict=True))
        outside += not within
        assert labels[x] == (annotation[tuple(nearest)] if within else 0)
    assert outside > 0


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("shape", [(9, 7, 8), (1, 5, 7), (2, 1, 9), (12, 6, 1), (1, 1, 1), (11, 13), (1, 6)])
def test_interpolation_agrees_with_scipy_even_far_outside_thin_volumes(shape: tuple[int, ...], channels: int) -> None:
    generator = np.random.default_rng(0)
    image = generator.random((channels, *shape)).astype(np.float32)
    positions = generator.uniform(-30, 40, (len(shape), 13, *[5] * (len(shape) - 1))).astype(np.float32)
    positions[:, 0] = np.round(positions[:, 0])
    found = LinearSampler(torch.tensor(image))(torch.tensor(positions)).numpy()
    for channel in range(channels):
        # scipy gives 0 along an axis of one voxel, which repeats it here.
        within = [np.zeros_like(p) if size == 1 else p for p, size in zip(positions, shape, strict=True)]
        expected = ndimage.map_coordinates(image[channel], np.stack(within), order=1, mode="mirror")
        np.testing.assert_allclose(found[channel], expected, atol=1e-4)


def test_identity_parameters_give_the_identity() -> None:
    generator = np.random.default_rng(2)
    image = torch.tensor(generator.random((3, 30, 24, 26)).astype(np.float32))
    annotation = torch.tensor(generator.integers(0, 4, size=(30, 24, 26)).astype(np.uint8))
    settings = DeformationSettings(rotation=0, scaling=0, elastic_sd=0)
    deformation = draw_deformation(generator, (15, 12, 13), (30, 24, 26), settings, (1, 1, 2.5))
    for same in (deformation, identity_deformation((15, 12, 13), (30, 24, 26), 32)):
        positions = source_positions(same, (30, 24, 26))
        torch.testing.assert_close(LinearSampler(image)(positions), image, atol=1e-5, rtol=0)
        assert torch.equal(sample_annotation(annotation, positions), annotation)


def test_image_and_annotation_are_deformed_alike() -> None:
    """An annotation that is a threshold of a smooth image stays one after the deformation."""
    x, y, z = np.meshgrid(*[np.linspace(0, 3, 40)] * 3, indexing="ij")
    smooth = (np.sin(x + y) + np.cos(2 * z)).astype(np.float32)
    deformation = random_deformation((24, 24, 24), (20, 20, 20))
    positions = source_positions(deformation, (24, 24, 24))
    image = LinearSampler(torch.tensor(smooth[None]))(positions)[0].numpy()
    labels = sample_annotation(torch.tensor((smooth > 0.5).astype(np.uint8)), positions).numpy()
    sure = np.abs(image - 0.5) > 0.15
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(labels[sure] == 1, image[sure] > 0.5)


def test_vectors_have_the_papers_spread() -> None:
    settings = DeformationSettings()
    vectors = np.concatenate(
        [
            draw_deformation(np.random.default_rng(seed), (0, 0, 0), (132, 132, 116), settings, (1, 1, 1)).vectors
            for seed in range(20)
        ]
    )
    assert settings.elastic_spacing == 32
    assert vectors.std() == pytest.approx(4.0, rel=0.03)
    assert vectors.mean() == pytest.approx(0.0, abs=0.1)


def test_rotation_is_rigid_in_space_where_voxels_are_not_cubes() -> None:
    settings = DeformationSettings(rotation=40, scaling=0, elastic_sd=0)
    size = np.array([0.5, 1.0, 3.0])
    matrix = draw_deformation(np.random.default_rng(0), (0, 0, 0), (20, 20, 20), settings, size).matrix
    in_space = matrix * size[:, None] / size
    np.testing.assert_allclose(in_space @ in_space.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(in_space) == pytest.approx(1)
    assert not np.allclose(matrix, np.eye(3), atol=0.05)


def test_scaling_stays_within_its_limits() -> None:
    settings = DeformationSettings(rotation=0, scaling=0.25, elastic_sd=0)
    factors = [
        draw_deformation(np.random.default_rng(seed), (0, 0, 0), (20, 20, 20), settings, (1, 1, 1)).matrix[0, 0]
        for seed in range(200)
    ]
    assert 0.8 <= min(factors) < 0.82
    assert 1.22 < max(factors) <= 1.25
    assert np.mean(np.log(factors)) == pytest.approx(0, abs=0.03)


def test_a_seed_repeats_the_draw() -> None:
    first, second = (random_deformation((20, 20, 20), (5, 5, 5), seed=7) for _ in range(2))
    other = random_deformation((20, 20, 20), (5, 5, 5), seed=8)
    np.testing.assert_array_equal(first.vectors, second.vectors)
    np.testing.assert_array_equal(first.matrix, second.matrix)
    assert not np.array_equal(first.vectors, other.vectors)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 34, 64, 65, 100])
def test_the_field_hardly_depends_on_where_its_control_points_end(size: int) -> None:
    """It agrees with that of an endless row of vectors, to a twentieth of their standard deviation."""
    (points,) = control_points((size,), 32)
    endless = np.random.default_rng(size).standard_normal(points + 40)
    deformation = Deformation(np.zeros(1), np.eye(1), endless[None, 20:-20], 32)
    expected = ndimage.map_coordinates(endless, [20 + MARGIN + np.arange(size) / 32], order=3, mode="mirror")
    np.testing.assert_allclose(displacement(deformation, (size,))[0].numpy(), expected, atol=0.05)
