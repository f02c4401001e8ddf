"""Images that stay in their files: each box has the voxels of the image that is prepared as a whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import prepare_image
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.plan.plan import Plan
from lib.core.volumes import intensity, stored_volume
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume
from lib.core.volumes.stored_volume import StoredVolume
from ome_zarr_files import save

pytest.importorskip("zarr", reason="zarr needs Python 3.11")
SHAPE = (2, 23, 19, 31)


def plan(spacing: Sequence[float] | None = None) -> Plan:
    return Plan(LabelScheme(("one", "two"), "out"), SHAPE[0], spacing and tuple(spacing), 2, (132, 132, 116))


def image_of(dtype: str, seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).gamma(2, 300, SHAPE)
    values[:, :, :9] = 100
    return values.astype(dtype)


def saved(folder: Path, array: NDArray[Any]) -> Path:
    return save(
        folder / "a.zarr", [array.transpose(0, 3, 2, 1)], "czyx", "0.5", [(1, 0.5, 0.5, 0.5)], chunks=(1, 8, 8, 8)
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes and samples are small enough that the image has many of them."""
    monkeypatch.setattr(stored_volume, "SURVEYED", 1000)
    monkeypatch.setattr(intensity, "SAMPLE", 1000)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
@pytest.mark.parametrize("spacing", [None, (1e-3, 0.75e-3, 0.5e-3), (0.3e-3, 0.5e-3, 1.3e-3)])
def test_boxes_are_those_of_the_whole(tmp_path: Path, dtype: str, spacing: Sequence[float] | None) -> None:
    path = saved(tmp_path, image_of(dtype))
    whole, grid = prepare_image(read_volume(path), plan(spacing))
    large = LargeImage(StoredVolume(OmeZarrSource(path)), plan(spacing))
    assert large.grid == grid
    assert large.shape == tuple(whole.shape)
    rng = np.random.default_rng(1)
    corners = [np.sort(rng.choice(size + 1, 2, replace=False)) for _ in range(8) for size in grid.working]
    for x, y, z in [*zip(*[iter(slice(int(a), int(b)) for a, b in corners)] * 3, strict=True)]:
        np.testing.assert_allclose(large[:, x, y, z], whole[:, x, y, z], atol=2e-6, rtol=0)
    if spacing is None:
        np.testing.assert_array_equal(large[tuple(slice(0, size) for size in large.shape)], whole)


def test_boxes_are_as_exact_when_the_network_computes_in_bfloat16(tmp_path: Path) -> None:
    large = LargeImage(StoredVolume(OmeZarrSource(saved(tmp_path, image_of("uint16")))), plan((1e-3, 0.75e-3, 0.5e-3)))
    every = tuple(slice(0, size) for size in large.shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = large[every]
    np.testing.assert_array_equal(found, large[every])


def test_missing_values_are_those_of_the_whole(tmp_path: Path) -> None:
    """NaN in one channel, in both, and in the whole of a box of the survey."""
    array = image_of("float32")
    array[0, :3] = np.nan
    array[:, 5:20, 10:18, :17] = np.nan
    path = saved(tmp_path, array)
    volume = read_volume(path)
    whole, _ = prepare_image(volume, plan())
    large = LargeImage(StoredVolume(OmeZarrSource(path)), plan())
    every = tuple(slice(0, size) for size in large.shape)
    np.testing.assert_array_equal(large[every], whole)
    np.testing.assert_array_equal(large.outside(every[1:]), volume.outside)


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        (np.inf, (1, 7, 3, 30), r"the value of voxel \(7, 3, 30\) in channel 1 is infinite"),
        (np.nan, (1,), "all values of channel 1 are NaN"),
    ],
)
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float, where: Any, words: str) -> None:
    array = image_of("float32")
    array[where] = value
    with pytest.raises(InputError, match=words):
        LargeImage(StoredVolume(OmeZarrSource(saved(tmp_path, array))), plan())


def test_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, image_of("uint8")[:1])
    with pytest.raises(InputError, match=r"1 channel\(s\), the model was trained on 2"):
        LargeImage(StoredVolume(OmeZarrSource(path)), plan())
