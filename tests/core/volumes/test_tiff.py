"""Voxels and voxel sizes of TIFF files that tifffile, ITK and Pillow write, against the array that was written."""

import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from numpy.typing import DTypeLike
from PIL import Image

from lib.core.errors import InputError
from lib.core.volumes.tiff import TiffSource
from lib.core.volumes.voxel_size import set_size_without_metadata
from tiff_files import LAYOUTS, as_channels, check, voxels

UNSTATED = "doesn't say how large its voxels are; they count as 1 mm. Start the server with --conf voxel X,Y,Z"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_of_ome_tiff(tmp_path: Path, layout: str, dtype: DTypeLike) -> None:
    array = voxels("CZYX", dtype)
    options = {"metadata": {"axes": "CZYX"}, "photometric": "minisblack", **LAYOUTS[layout]}
    tifffile.imwrite(tmp_path / "a.tif", array, ome=True, **options)
    check(tmp_path / "a.tif", as_channels(array, "CZYX"))


@pytest.mark.parametrize("layout", ["plain", "big-endian", "deflate tiles"])
@pytest.mark.parametrize("axes", ["ZYX", "ZCYX", "ZYXS", "CZYXS", "ZSYX"])
@pytest.mark.parametrize("ome", [True, False])
def test_axes_come_from_the_metadata(tmp_path: Path, axes: str, ome: bool, layout: str) -> None:
    array = voxels(axes)
    how = {"photometric": "rgb", "planarconfig": "contig" if axes[-1] == "S" else "separate"} if "S" in axes else {}
    how = how or {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", array, ome=ome, metadata={"axes": axes}, **how, **LAYOUTS[layout])
    check(tmp_path / "a.tif", as_channels(array, axes))


def test_any_order_of_named_axes(tmp_path: Path) -> None:
    array = voxels("XZCY")
    tifffile.imwrite(tmp_path / "a.tif", array, metadata={"axes": "XZCY"}, photometric="minisblack")
    check(tmp_path / "a.tif", as_channels(array, "XZCY"))


@pytest.mark.parametrize("layout", ["tiled", "deflate tiles"])
def test_pages_that_are_volumes(tmp_path: Path, layout: str) -> None:
    array = voxels("ZYX")
    layouts = {"tiled": {}, "deflate tiles": {"compression": "zlib"}}
    options: dict[str, Any] = {"volumetric": True, "tile": (16, 16, 16), "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "a.tif", array, **options, **layouts[layout])
    check(tmp_path / "a.tif", as_channels(array, "ZYX"))


@pytest.mark.parametrize("layout", ["plain", "big-endian", "LZW"])
def test_imagej_hyperstacks(tmp_path: Path, layout: str) -> None:
    array = voxels("TZCYX")
    layouts = {"plain": {}, "big-endian": {"byteorder": ">"}, "LZW": {"compression": "lzw"}}
    metadata = {"axes": "TZCYX", "spacing": 2.5, "unit": "micron"}
    options: dict[str, Any] = {"imagej": True, "resolution": (4, 2), "metadata": metadata}
    tifffile.imwrite(tmp_path / "a.tif", array, **options, **layouts[layout])
    assert TiffSource.images_in(tmp_path / "a.tif") == ("t0000", "t0001", "t0002")
    for time in range(3):
        source = check(tmp_path / "a.tif" / f"t{time:04d}", as_channels(array, "TZCYX", time))
        np.testing.assert_allclose(source.geometry.affine, np.diag([-0.00025, -0.0005, 0.0025, 1]))
        assert source.notes == ()


def test_a_large_imagej_stack_with_one_page_for_all(tmp_path: Path) -> None:
    array = voxels("ZYX", np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", array, imagej=True, metadata={"axes": "ZYX"})
    content = bytearray((tmp_path / "b.tif").read_bytes())
    (first,) = struct.unpack_from("<I" if content[:2] == b"II" else ">I", content, 4)
    order = "<" if content[:2] == b"II" else ">"
    (tags,) = struct.unpack_from(f"{order}H", content, first)
    struct.pack_into(f"{order}I", content, first + 2 + 12 * tags, 0)
    (tmp_path / "a.tif").write_bytes(content)
    check(tmp_path / "a.tif", as_channels(array, "ZYX"))
    (tmp_path / "a.tif").write_bytes(content[: -array.nbytes // 2])
    with pytest.raises(InputError, match=r"a\.tif"):
        TiffSource(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("metadata", "resolution", "size"),
    [
        ({"spacing": 3, "unit": "mm"}, (2, 4), (0.5, 0.25, 3)),
        ({"spacing": 3, "unit": "\\u00B5m"}, (2, 4), (0.0005, 0.00025, 0.003)),
        ({"spacing": 3, "unit": "nm"}, (2, 4), (0.5e-6, 0.25e-6, 3e-6)),
        ({"unit": "inch"}, (2, 2), (12.7, 12.7, 25.4)),
        ({"spacing": 3, "unit": "pixel"}, (2, 4), None),
        ({"spacing": 3}, (2, 4), None),
        ({"spacing": 3, "unit": "um"}, (0, 4), None),
        ({"spacing": 0, "unit": "um"}, (2, 4), None),
    ],
)
def test_the_voxel_size_of_imagej(
    tmp_path: Path, metadata: dict[str, Any], resolution: Any, size: tuple[float, ...] | None
) -> None:
    options: dict[str, Any] = {"resolution": resolution} if resolution else {}
    tifffile.imwrite(tmp_path / "a.tif", voxels("ZYX"), imagej=True, metadata={"axes": "ZYX", **metadata}, **options)
    source = TiffSource(tmp_path / "a.tif")
    np.testing.assert_allclose(source.geometry.spacing, size or (1, 1, 1))
    stated = "spacing" in metadata and size is not None
    assert len(source.notes) == (0 if stated else 1)


OME_SIZES: list[tuple[dict[str, Any], tuple[float, ...] | None]] = [
    ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 3}, (0.0005, 0.00025, 0.003)),
    ({f"PhysicalSize{a}{b}": c for a in "XYZ" for b, c in (("", 2), ("Unit", "nm"))}, (2e-6, 2e-6, 2e-6)),
    ({f"PhysicalSize{a}{b}": c for a in "XYZ" for b, c in (("", 2), ("Unit", "cm"))}, (20, 20, 20)),
    ({f"PhysicalSize{a}{b}": c for a in "XYZ" for b, c in (("", 2), ("Unit", "pixel"))}, None),
    ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}, None),
    ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 0}, None),
    ({}, None),
]


@pytest.mark.parametrize(("metadata", "size"), OME_SIZES)
def test_the_voxel_size_of_ome_tiff(tmp_path: Path, metadata: dict[str, Any], size: tuple[float, ...] | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("ZYX"), ome=True, metadata={"axes": "ZYX", **metadata})
    source = TiffSource(tmp_path / "a.tif")
    np.testing.assert_allclose(source.geometry.spacing, size or (1, 1, 1))
    assert source.notes == (() if size else (f"{tmp_path / 'a.tif'}: the file {UNSTATED}",))


@pytest.mark.parametrize("pages", [2, 7, 12])
def test_a_plain_file_is_a_stack_without_size(tmp_path: Path, pages: int) -> None:
    array = np.random.default_rng(0).integers(0, 255, (pages, 40, 33)).astype(np.uint8)
    frames = [Image.fromarray(plane) for plane in array]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:], dpi=(300, 300))
    source = TiffSource(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read()[0], array.T)
    assert source.notes == (f"{tmp_path / 'a.tif'}: the file {UNSTATED}",)
    np.testing.assert_array_equal(source.geometry.affine, np.diag([-1, -1, 1, 1]))


@pytest.mark.parametrize("compressed", [True, False])
def test_files_of_itk(tmp_path: Path, compressed: bool) -> None:
    array = voxels("ZYX")
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([0.5, 0.25, 3])
    sitk.WriteImage(image, str(tmp_path / "a.tif"), useCompression=compressed)
    assert len(check(tmp_path / "a.tif", as_channels(array, "ZYX")).notes) == 1


def test_a_size_can_be_set_for_files_without_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("ZYX"))
    set_size_without_metadata((0.5, 0.25, 3))
    try:
        source = TiffSource(tmp_path / "a.tif")
    finally:
        set_size_without_metadata(None)
    assert source.geometry.spacing == (0.5, 0.25, 3)
    assert "they count as 0.5 x 0.25 x 3 mm (--conf voxel)" in source.notes[0]


def test_black_and_white_files(tmp_path: Path) -> None:
    array = voxels("ZYX") > 100
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    check(tmp_path / "a.tif", as_channels(array.astype(np.uint8), "ZYX"))


def test_only_pages_of_the_box_are_read(tmp_path: Path) -> None:
    array = voxels("ZYX")
    tifffile.imwrite(tmp_path / "a.tif", array, compression="zlib", tile=(16, 16), metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[4]
        offset, size = page.dataoffsets[4], page.databytecounts[4]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[offset : offset + size] = bytes(size)
    (tmp_path / "a.tif").write_bytes(content)
    source = TiffSource(tmp_path / "a.tif")
    # Tile 4 of 3 x 3 has columns and rows 16 to 31.
    for box in ((slice(0, 33), slice(0, 40), slice(0, 4)), (slice(0, 16), slice(0, 40), slice(4, 5))):
        np.testing.assert_array_equal(source.read(box)[0], array.T[box])
    for damaged in (None, (slice(31, 32), slice(16, 17), slice(4, 5))):
        with pytest.raises(InputError, match=r"a\.tif: page 5 of 7 is damaged"):
            source.read(damaged)


def test_a_written_label_map_is_read_again_by_this_and_by_others(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 4, (33, 40, 7)).astype(np.uint8)
    affine = np.array([[-0.00026, 0, 0, 5], [0, -0.0005, 0, 6], [0, 0, 0.002, 7], [0, 0, 0, 1]])
    TiffSource.write(tmp_path / "a.ome.tif", array, affine)
    source = check(tmp_path / "a.ome.tif", array[None])
    np.testing.assert_allclose(source.geometry.affine[:3, :3], affine[:3, :3], rtol=1e-12)
    assert source.notes == ()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.ome.tif"))), array.T)
    with Image.open(tmp_path / "a.ome.tif") as image:
        image.seek(3)
        np.testing.assert_array_equal(np.array(image), array[..., 3].T)
        image.seek(0)
        # Pillow takes UTF-8 for Latin 1.
        pixels = ElementTree.fromstring(image.tag_v2[270].encode("latin1")).find(".//{*}Pixels")
    assert pixels is not None
    sizes = [float(pixels.attrib[f"PhysicalSize{axis}"]) for axis in "XYZ"]
    np.testing.assert_allclose(sizes, (0.26, 0.5, 2))
    assert [pixels.attrib[f"PhysicalSize{axis}Unit"] for axis in "XYZ"] == ["µm"] * 3
    assert [pixels.attrib[f"Size{axis}"] for axis in "XYZCT"] == ["33", "40", "7", "1", "1"]
