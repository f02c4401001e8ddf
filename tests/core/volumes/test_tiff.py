"""TIFF files that tifffile, ITK and Pillow write, against the array that was written, and what is refused of them."""

import re
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from lib.core.errors import InputError
from lib.core.volumes.tiff import TiffSource
from lib.core.volumes.voxel_size import set_size_without_metadata
from sources import check_voxels

SIZES = {"T": 3, "C": 2, "Z": 7, "Y": 40, "X": 33, "S": 3}
BOX = (slice(3, 30), slice(17, 35), slice(2, 6))
UNSTATED = "doesn't say how large its voxels are; they count as 1 mm. Start the server with --conf voxel X,Y,Z"


def voxels(axes: str, dtype: DTypeLike = np.uint16) -> NDArray[Any]:
    """An array with these axes and few equal values."""
    random = np.random.default_rng(0)
    return random.integers(0, 255, [SIZES[axis] for axis in axes]).astype(dtype)


def as_channels(array: NDArray[Any], axes: str, time: int = 0) -> NDArray[Any]:
    """One point in time as (C, X, Y, Z), by a plain loop over the channels and samples."""
    names = dict(zip(axes, range(len(axes)), strict=True))
    found = []
    for c in range(SIZES["C"] if "C" in names else 1):
        for s in range(SIZES["S"] if "S" in names else 1):
            at = {"T": time, "C": c, "S": s}
            part = array[tuple(at.get(axis, slice(None)) for axis in axes)]
            left = [axis for axis in axes if axis in "XYZ"]
            found.append(np.einsum(part, [ord(axis) - 65 for axis in left], [ord(axis) - 65 for axis in "XYZ"]))
    return np.array(found)


def check(path: Path, expected: NDArray[Any]) -> TiffSource:
    """Check that all voxels, and those of a box, are as expected (C, X, Y, Z)."""
    source = TiffSource(path)
    check_voxels(source, path, expected, (BOX, (slice(0, 1), slice(39, 40), slice(6, 7))))
    return source


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "tiled": {"tile": (16, 32)},
    "strips": {"rowsperstrip": 7},
    "deflate": {"compression": "zlib", "predictor": True},
    "deflate tiles": {"compression": "zlib", "tile": (32, 16), "byteorder": ">"},
    "LZW": {"compression": "lzw", "rowsperstrip": 11, "predictor": True},
    "PackBits": {"compression": "packbits"},
    "Zstandard": {"compression": "zstd", "bigtiff": True},
}


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


@pytest.mark.parametrize(("axes", "unknown"), [("QQYX", "Q"), ("CQYX", "Q"), ("AZYX", "A"), ("ZRYX", "R")])
def test_unknown_axes_are_refused_by_name(tmp_path: Path, axes: str, unknown: str) -> None:
    array = np.zeros((3, 4, 40, 33), np.uint8)
    metadata = None if axes == "QQYX" else {"axes": axes}
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=metadata or {}, photometric="minisblack")
    with pytest.raises(InputError, match=f"the axes are {axes}, of which {unknown} can't be used"):
        TiffSource(tmp_path / "a.tif")


def save_ome(path: Path, change: dict[str, str], array: NDArray[Any] | None = None, **options: Any) -> Path:
    """Write an OME-TIFF, and change its OME-XML by pairs of patterns and replacements."""
    array = voxels("ZYX") if array is None else array
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX"}, photometric="minisblack", **options)
    description = tifffile.tiffcomment(path)
    for pattern, replacement in change.items():
        changed = re.sub(pattern, replacement, description)
        assert changed != description
        description = changed
    tifffile.tiffcomment(path, description.encode())
    return path


OTHER_UUID = '<UUID FileName="b.tif">urn:uuid:00000000-0000-0000-0000-000000000002</UUID>'


def test_files_in_several_files_are_refused(tmp_path: Path) -> None:
    save_ome(tmp_path / "b.tif", {})
    for change in (
        {r"<TiffData([^>]*)/>": rf"<TiffData\1>{OTHER_UUID}</TiffData>"},
        {r"<TiffData([^>]*)></TiffData>|<TiffData([^>]*)/>": rf"<x:TiffData xmlns:x='y'>{OTHER_UUID}</x:TiffData>"},
        {r"<Image.*</Image>": '<BinaryOnly MetadataFile="b.tif" UUID="urn:uuid:1"/>'},
    ):
        save_ome(tmp_path / "a.tif", change)
        with pytest.raises(InputError, match=r"a\.tif: one of the files of an OME-TIFF in several files; save the"):
            TiffSource(tmp_path / "a.tif")


def test_a_renamed_file_is_one_file(tmp_path: Path) -> None:
    change = {r' UUID="[^"]*"': "", r"<TiffData([^>]*)/>": rf"<TiffData\1>{OTHER_UUID}</TiffData>"}
    save_ome(tmp_path / "b.tif", {}, voxels("ZYX") + 1, compression="zlib")
    check(save_ome(tmp_path / "a.tif", change), as_channels(voxels("ZYX"), "ZYX"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({'SizeZ="7"': 'SizeZ="9"'}, "7 planes are in the file, expected 9"),
        ({'SizeZ="7"': 'SizeZ="900000000"'}, "declares 900000000 planes"),
        ({'SizeZ="7"': 'SizeZ="-7"'}, "declares -7 planes"),
        ({'PlaneCount="7"': 'PlaneCount="900000000"'}, "more planes than the file"),
        ({'SizeX="33"': 'SizeX="34"'}, "0 images can be read|metadata can't be used"),
        ({"</OME>": "<x/>OME>"}, "cannot be read"),
        ({r"<OME ": '<!DOCTYPE OME [<!ENTITY a SYSTEM "b">]><OME '}, "document type"),
        ({r"<Pixels ": '<Pixels PhysicalSizeX="large" '}, "cannot be read"),
        ({"</OME>": '<A Namespace="openmicroscopy.org/omero/dimension/modulo"/></OME>'}, "modulo"),
    ],
)
def test_metadata_that_does_not_fit_the_pages_is_refused(tmp_path: Path, change: dict[str, str], match: str) -> None:
    save_ome(tmp_path / "a.tif", change, compression="zlib")
    with pytest.raises(InputError, match=rf"a\.tif: .*({match})"):
        TiffSource(tmp_path / "a.tif")


@pytest.mark.parametrize("layout", ["plain", "deflate", "LZW", "deflate tiles"])
@pytest.mark.parametrize("kind", [{"ome": True}, {}, {"metadata": None}])
def test_every_truncated_file_is_refused(tmp_path: Path, kind: dict[str, Any], layout: str) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, ome=kind.get("ome")) as writer:
        options = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack", **kind, **LAYOUTS[layout]}
        options.pop("byteorder", None)
        options.pop("ome", None)
        writer.write(voxels("ZYX"), **options)
    content = path.read_bytes()
    for part in np.linspace(0, 0.99, 12):
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(InputError, match=r"a\.tif"):
            TiffSource(path).read()


@pytest.mark.parametrize("layout", ["deflate", "LZW", "PackBits", "Zstandard"])
def test_damaged_pages_are_named(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, voxels("ZYX"), ome=True, metadata={"axes": "ZYX"}, **LAYOUTS[layout])
    with tifffile.TiffFile(path) as file:
        (offset, *_), (size, *_) = file.pages[2].dataoffsets, file.pages[2].databytecounts
    content = bytearray(path.read_bytes())
    content[offset + 2 : offset + size] = b"\xff" * (size - 2)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.tif: page 3 of 7 is damaged or incomplete \("):
        TiffSource(path).read()


def change_tag(path: Path, code: int, value: int, page: int = 0, at: int = 0) -> None:
    """Change one number of a tag."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages[page].tags[code]
        form = {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
        start, order = tag.valueoffset + at * struct.calcsize(form), file.byteorder
    with path.open("r+b") as out:
        out.seek(start)
        out.write(struct.pack(order + form, value))


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (256, 2**31 - 1),
        (257, 2**31 - 1),
        (322, 2**30),
        (323, 0),
        (277, 60000),
        (258, 7000),
        (259, 34712),
        (317, 34892),
        (325, 0),
        (324, 0),
        (324, 2**31),
    ],
    ids=str,
)
def test_absurd_tags_are_refused(tmp_path: Path, code: int, value: int) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"compression": "zlib", "predictor": True, "photometric": "minisblack"}
    tifffile.imwrite(path, voxels("ZYX"), tile=(16, 16), metadata={"axes": "ZYX"}, **options)
    change_tag(path, code, value)
    with pytest.raises(InputError, match=r"a\.tif"):
        TiffSource(path).read()


def test_pages_in_a_circle_are_refused(tmp_path: Path) -> None:
    """tifffile finds only circles that close at the 100th page."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((150, 5, 5), np.uint8), metadata={"axes": "ZYX"}, compression="zlib")
    with tifffile.TiffFile(path) as file:
        target, last = file.pages[120].offset, file.pages[-1].offset
        assert not file.is_bigtiff
    content = bytearray(path.read_bytes())
    (tags,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * tags, target)
    path.write_bytes(content)
    with pytest.raises(InputError, match="page 151 is an earlier page again"):
        TiffSource(path)


def test_a_shape_that_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    for name, shape in (("a", "[900000000, 40, 33]"), ("b", "[9, 40, 33]")):
        description = f'{{"shape": {shape}, "axes": "TYX"}}'
        tifffile.imwrite(tmp_path / f"{name}.tif", voxels("ZYX"), metadata=None, description=description)
    with pytest.raises(InputError, match=r"a\.tif: an image of shape \(900000000, 40, 33\) is declared"):
        TiffSource.images_in(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"b\.tif: the file declares 23760 bytes of voxels"):
        TiffSource(tmp_path / "b.tif" / "t0001")


def test_complex_values_and_other_files_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", voxels("ZYX", np.complex64), metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match=r"a\.tif: the values are of type complex64"):
        TiffSource(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_bytes(b"no TIFF file")
    with pytest.raises(InputError, match=r"b\.tif: cannot be read \(not a TIFF file"):
        TiffSource(tmp_path / "b.tif")


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
