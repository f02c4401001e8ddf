"""Robust scaling, compared with percentiles found by sorting, and for any values that a file may hold."""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.volumes.intensity import scale_intensity

SHAPE = (20, 21, 22)


def by_percentiles(array: NDArray[Any], of: NDArray[Any]) -> NDArray[np.float64]:
    """Scale an array by the percentiles of some values."""
    low, high = np.percentile(of.astype(np.float64), [0.5, 99.5])
    scaled: NDArray[np.float64] = ((array.astype(np.float64) - low) / (high - low)).clip(0, 1)
    return scaled


def test_scale_intensity_per_channel():
    random = np.random.default_rng(0)
    array = np.stack([random.integers(0, 4000, (20, 21, 22)), random.normal(5e8, 10, (20, 21, 22)).astype(int)])
    for dtype in (np.uint32, np.int64, np.float64):
        scaled = scale_intensity(array.astype(dtype))
        assert scaled.dtype == np.float32
        for channel, result in zip(array, scaled, strict=True):
            in_order = np.sort(channel.ravel())
            # The percentile of n sorted values is the linear interpolation at (n - 1) · percentage.
            low, high = (np.interp(p * (in_order.size - 1), range(in_order.size), in_order) for p in (0.005, 0.995))
            np.testing.assert_allclose(result, ((channel - low) / (high - low)).clip(0, 1), atol=1e-6)


def test_scale_intensity_of_nearly_constant_channels():
    array = np.zeros((2, 20, 20, 20), np.uint16)
    array[1, 3, 4, 5:7] = 100, 200
    scaled = scale_intensity(array)
    assert not scaled[0].any()
    np.testing.assert_allclose(scaled[1, 3, 4, 4:8], [0, 0.5, 1, 0])


def test_scale_intensity_ignores_gain_offset_and_a_hot_pixel():
    array = np.random.default_rng(1).integers(0, 1000, (1, 20, 20, 20)).astype(np.float32)
    other = array * 7 + 300
    np.testing.assert_allclose(scale_intensity(other), scale_intensity(array), atol=1e-5)
    other[0, 0, 0, 0] = 1e9
    np.testing.assert_allclose(scale_intensity(other)[0, 1:], scale_intensity(array)[0, 1:], atol=1e-3)


@pytest.mark.parametrize("constant", [0, -1024, 3071, 1000])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.float32])
def test_a_constant_part_does_not_count(constant: int, share: float, dtype: type) -> None:
    random = np.random.default_rng(0)
    image = random.normal(1000, 200, SHAPE).astype(dtype)
    image[image == constant] = constant + 1
    outside = random.random(SHAPE) < share
    masked = np.where(outside, constant, image).astype(dtype)
    np.testing.assert_allclose(scale_intensity(masked[None])[0], by_percentiles(masked, masked[~outside]), atol=1e-6)


@pytest.mark.parametrize("values", [(0, 1), (0, 1, 2), (-1000000, 0, 1), (7, 8, 1000), (0, 100, 101, 102)])
def test_a_few_values_stay_apart(values: tuple[int, ...]) -> None:
    shares = np.array([0.7, 0.2, 0.05, 0.05])[: len(values)]
    array = np.random.default_rng(1).choice(values, size=(1, *SHAPE), p=shares / shares.sum())
    scaled = [np.unique(scale_intensity(array)[array == value]) for value in values]
    assert all(len(unique) == 1 for unique in scaled)
    assert (np.diff(np.concatenate(scaled)) > 0.1).all() or values[-1] == 1000


def hostile() -> dict[str, NDArray[Any]]:
    """Images on which scaling may divide by zero or overflow."""
    random = np.random.default_rng(2)
    noise, one = random.normal(size=SHAPE), np.zeros(SHAPE)
    one[3, 4, 5] = 1
    mask = random.random(SHAPE) < 0.6
    images: dict[str, NDArray[Any]] = {"zeros": np.zeros(SHAPE), "all equal": np.full(SHAPE, 1e30)}
    for scale in (1e-320, 1e-300, 1e-30, 1, 1e30, 1e300, 1.7e308):
        images |= {
            f"noise {scale}": np.clip(noise, -1, 1) * scale,
            f"masked {scale}": np.where(mask, 0, np.clip(noise, -1, 1) * scale),
            f"padded {scale}": np.where(mask, -scale, scale),
            f"one bright voxel {scale}": one * scale,
            f"one bright voxel in noise {scale}": np.where(one > 0, scale, noise * 1e-30),
        }
    for dtype in (np.int8, np.uint8, np.int64, np.uint64):
        least, greatest = np.iinfo(dtype).min, np.iinfo(dtype).max
        images[f"extremes of {dtype.__name__}"] = np.where(mask, least, greatest).astype(dtype)
        images[f"any {dtype.__name__}"] = random.integers(least, greatest, SHAPE, dtype=dtype, endpoint=True)
    return images


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", hostile())
def test_any_finite_image_is_scaled_to_0_to_1(name: str, dtype: type) -> None:
    image = hostile()[name]
    if image.dtype.kind == "f":
        with np.errstate(all="ignore"):
            image = image.astype(dtype)
        image = np.nan_to_num(image)
    with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
        warnings.simplefilter("error")
        scaled = scale_intensity(image[None])
    assert np.isfinite(scaled).all()
    assert scaled.min() == 0
    assert scaled.max() == (1 if image.min() < image.max() else 0)


def test_large_channels_are_scaled_by_a_sample() -> None:
    """Nearly as with all values, although the image is periodic along its axes."""
    x, y, z = np.ogrid[:240, :240, :150]
    image = (1000 + 1000 * (z % 3) + 10 * (y % 4) + (x % 8)).astype(np.int16)
    image += np.random.default_rng(3).integers(0, 50, image.shape).astype(np.int16)
    image[:100] = -7
    scaled = scale_intensity(image[None])
    np.testing.assert_allclose(scaled[0], by_percentiles(image, image[100:]), atol=0.01)
    np.testing.assert_array_equal(scale_intensity(image[None]), scaled)
    lonely = np.zeros_like(image)
    lonely[101, 3, 2] = 5
    assert scale_intensity(lonely[None]).max() == 1
