"""TIFF files that are refused: unknown axes, several files, damaged pages, absurd tags."""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes.tiff import TiffSource
from tiff_files import LAYOUTS, as_channels, check, voxels


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
