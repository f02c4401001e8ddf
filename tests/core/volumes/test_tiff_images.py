"""TIFF files of several images, of a pyramid, or of one image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes.tiff import TiffSource
from tiff_files import as_channels, check, voxels


def save_series(path: Path, names: list[str | None], axes: str = "ZYX") -> list[NDArray[Any]]:
    """Write an OME-TIFF of several images, each with other values."""
    arrays = [voxels(axes) + number for number in range(len(names))]
    with tifffile.TiffWriter(path, ome=True) as writer:
        for array, name in zip(arrays, names, strict=True):
            metadata = {"axes": axes, "PhysicalSizeZ": 2.0, "PhysicalSizeX": 2.0, "PhysicalSizeY": len(name or "")}
            writer.write(array, photometric="minisblack", metadata=metadata | ({"Name": name} if name else {}))
    return arrays


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["left", "right eye: 2/3"], ("left", "right_eye_2_3")),
        (["left", "Left"], ("series0", "series1")),
        (["left", "../.."], ("series0", "series1")),
    ],
)
def test_several_images(tmp_path: Path, given: list[str | None], names: tuple[str, ...]) -> None:
    path = tmp_path / "a.ome.tif"
    arrays = save_series(path, given)
    assert TiffSource.images_in(path) == names
    for name, array, title in zip(names, arrays, given, strict=True):
        source = check(path / name, as_channels(array, "ZYX"))
        np.testing.assert_allclose(source.geometry.spacing, (0.002, 0.001 * len(title or ""), 0.002))
    with pytest.raises(InputError, match=rf"2 images in this file.*{names[0]}, {names[1]}$"):
        TiffSource(path)
    with pytest.raises(InputError, match="none is 'other'"):
        TiffSource(path / "other")


def test_several_images_in_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    arrays = save_series(path, ["a", "b"], "TZYX")
    assert TiffSource.images_in(path) == ("a_t0000", "a_t0001", "a_t0002", "b_t0000", "b_t0001", "b_t0002")
    check(path / "b_t0002", as_channels(arrays[1], "TZYX", 2))


def test_series_without_metadata(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for shape in ((3, 40, 33), (4, 20, 21)):
            for plane in np.ones(shape, np.uint8):
                writer.write(plane, metadata=None)
    assert TiffSource.images_in(tmp_path / "a.tif") == ("series0", "series1")
    assert TiffSource(tmp_path / "a.tif" / "series1").geometry.shape == (21, 20, 4)


def test_one_image_has_no_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("ZYX"), ome=True, metadata={"axes": "ZYX", "Name": "left"})
    assert TiffSource.images_in(tmp_path / "a.tif") == ()
    with pytest.raises(InputError, match="holds one image"):
        TiffSource(tmp_path / "a.tif" / "left")
    for missing in (tmp_path / "b.tif", tmp_path / "b.tif" / "left"):
        with pytest.raises(InputError, match="no such file"):
            TiffSource(missing)


@pytest.mark.parametrize("ome", [True, False])
def test_pyramids_count_by_their_largest_level(tmp_path: Path, ome: bool) -> None:
    array = voxels("ZYX")
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=ome) as writer:
        writer.write(array, subifds=1, tile=(16, 16), metadata={"axes": "ZYX"}, photometric="minisblack")
        writer.write(array[:, ::2, ::2], subfiletype=1, tile=(16, 16), photometric="minisblack")
    assert TiffSource.images_in(tmp_path / "a.tif") == ()
    check(tmp_path / "a.tif", as_channels(array, "ZYX"))
