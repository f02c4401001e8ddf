import numpy as np
import pytest
import torch

from lib.core.augmentation.grey_values import ENTRIES, GreyValueSettings, apply_grey_mapping, draw_grey_mapping


def test_mapping_is_the_curve_that_the_table_stands_for() -> None:
    generator = np.random.default_rng(0)
    tables = draw_grey_mapping(generator, 2, GreyValueSettings())
    image = generator.random((2, 5, 6, 7)).astype(np.float32)
    image[0, 0, 0, :2] = 0, 1
    mapped = apply_grey_mapping(torch.tensor(image), tables).numpy()
    for channel in range(2):
        expected = np.interp(image[channel], np.linspace(0, 1, ENTRIES), tables[channel])
        np.testing.assert_allclose(mapped[channel], expected, atol=5e-4)


def test_brighter_stays_brighter_and_curves_are_smooth() -> None:
    tables = draw_grey_mapping(np.random.default_rng(1), 200, GreyValueSettings(slope_sd=0.5))
    slopes = np.diff(tables, axis=1) * (ENTRIES - 1)
    assert (slopes > 0).all()
    assert np.abs(np.diff(slopes, axis=1) / slopes[:, 1:]).max() < 0.01
    assert slopes.std() > 0.3


def test_no_strength_leaves_the_image_alone() -> None:
    tables = draw_grey_mapping(np.random.default_rng(2), 1, GreyValueSettings(slope_sd=0, offset_sd=0))
    np.testing.assert_allclose(tables[0], np.linspace(0, 1, ENTRIES), atol=1e-12)


def test_channels_are_mapped_independently_and_a_seed_repeats_them() -> None:
    first = draw_grey_mapping(np.random.default_rng(3), 2, GreyValueSettings())
    second = draw_grey_mapping(np.random.default_rng(3), 2, GreyValueSettings())
    np.testing.assert_array_equal(first, second)
    assert np.abs(first[0] - first[1]).max() == pytest.approx(np.abs(second[0] - second[1]).max())
    assert np.abs(first[0] - first[1]).max() > 0.01
