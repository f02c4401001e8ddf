"""LIF files, as Leica describes them, against the array that was written, and what is refused of them."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from lib.core.errors import InputError
from lib.core.volumes.lif import LifSource
from lib.core.volumes.reading import read_volume
from lib.core.volumes.voxel_size import set_size_without_metadata
from lif_files import Series, block, element, framed, header, lif
from sources import check_voxels

SIZES = {"t": 3, "m": 2, "c": 2, "z": 70, "y": 6, "x": 9, "w": 2}
BOX = (slice(3, 8), slice(1, 5), slice(2, 66))


def voxels(axes: str, dtype: DTypeLike = np.uint16, **sizes: int) -> NDArray[Any]:
    """An array with these axes and few equal values."""
    shape = [(SIZES | sizes)[axis] for axis in axes]
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def as_channels(array: NDArray[Any], axes: str, **at: int) -> NDArray[Any]:
    """One image as (C, X, Y, Z), by a plain loop over its voxels."""
    sizes = dict(zip(axes, array.shape, strict=True))
    result = np.empty([sizes.get(axis, 1) for axis in "cxyz"], array.dtype)
    for place in np.ndindex(result.shape):
        index = dict(zip("cxyz", place, strict=True)) | at
        result[place] = array[tuple(index[axis] for axis in axes)]
    return result


def check(path: Path, expected: NDArray[Any]) -> LifSource:
    """Check that all voxels, and those of a box, are as expected (C, X, Y, Z)."""
    source = LifSource(path)
    check_voxels(source, path, expected, (BOX, (slice(8, 9), slice(5, 6), slice(69, 70))), most=100_000)
    return source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lif"


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("axes", ["zyx", "czyx", "zcyx", "zyxc", "cyzx"])
def test_voxels_and_places(path: Path, axes: str, dtype: DTypeLike, version: int) -> None:
    array = voxels(axes, dtype)
    path.write_bytes(lif(Series("Series001", array, axes), version=version))
    assert LifSource.images_in(path) == ()
    source = check(path, as_channels(array, axes))
    np.testing.assert_allclose(source.geometry.affine, np.diag([-4e-4, -5e-4, 1.25e-3, 1]))
    assert source.notes == ()


def test_several_series_tiles_and_times(path: Path) -> None:
    many, one = voxels("tmzyx"), voxels("zyx", np.uint8)
    series = [Series("Series001", many, "tmzyx"), Series("Mouse 1/Series001", one, "zyx")]
    path.write_bytes(lif(*series))
    names = [f"Series001_m{m:04}_t{t:04}" for m in range(2) for t in range(3)]
    assert LifSource.images_in(path) == (*names, "Mouse_1_Series001")
    check(path / "Series001_m0001_t0002", as_channels(many, "tmzyx", t=2, m=1))
    check(path / "Mouse_1_Series001", as_channels(one, "zyx"))
    with pytest.raises(InputError, match=r"7 images in this file.*no name was given"):
        LifSource(path)
    with pytest.raises(InputError, match="none is 'other'"):
        LifSource(path / "other")


def test_series_of_the_same_name(path: Path) -> None:
    path.write_bytes(lif(*[Series("Series001", voxels("zyx") + number, "zyx") for number in range(2)]))
    assert LifSource.images_in(path) == ("series0", "series1")
    check(path / "series1", as_channels(voxels("zyx") + 1, "zyx"))


def test_a_stack_that_was_scanned_downwards(path: Path) -> None:
    path.write_bytes(lif(Series("a", voxels("zyx"), "zyx", size=(4e-7, 5e-7, -1e-6))))
    np.testing.assert_allclose(LifSource(path).geometry.spacing, (4e-4, 5e-4, 1e-3))


@pytest.mark.parametrize("size", [{"unit": ""}, {"size": (4e-7, 5e-7, 0.0)}, {"size": (4e-7, 5e-7, np.nan)}])
def test_without_voxel_size(path: Path, size: dict[str, Any]) -> None:
    path.write_bytes(lif(Series("a", voxels("zyx"), "zyx", **size)))
    source = LifSource(path)
    assert source.geometry.spacing == (1, 1, 1)
    assert source.notes[0].endswith("they count as 1 mm. Start the server with --conf voxel X,Y,Z")
    set_size_without_metadata((0.1, 0.2, 0.3))
    try:
        np.testing.assert_allclose(LifSource(path).geometry.spacing, (0.1, 0.2, 0.3))
    finally:
        set_size_without_metadata(None)


def test_a_single_plane_is_no_volume(path: Path) -> None:
    path.write_bytes(lif(Series("overview", voxels("yx"), "yx"), Series("stack", voxels("zyx"), "zyx")))
    with pytest.raises(InputError, match="a 2-D image"):
        read_volume(path / "overview")
    assert read_volume(path / "stack").shape == (9, 6, 70)


def test_every_truncated_file_is_refused(path: Path) -> None:
    content = lif(Series("a", voxels("zyx"), "zyx"))
    for length in (*np.linspace(0, len(content) - 1, 40).astype(int), len(content) - 2 * 70 * 6 * 9 + 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a\.lif: cannot be read"):
            LifSource(path)


def test_what_came_before_the_end_of_an_incomplete_file_is_read(path: Path) -> None:
    array = voxels("tzyx")
    path.write_bytes(lif(Series("a", array, "tzyx"))[:-1])
    check(path / "t0001", as_channels(array, "tzyx", t=1))
    with pytest.raises(InputError, match=r"t0002: cannot be read \(7560 bytes of voxels are declared, and 7559 are"):
        LifSource(path / "t0002")


CHANGES = {
    "more voxels than there are": ('NumberOfElements="70"', 'NumberOfElements="71"', "7668 bytes of voxels"),
    "voxels without a distance": (
        'NumberOfElements="70"(.*?)BytesInc="108"',
        r'NumberOfElements="999999999"\1BytesInc="0"',
        "107999999892 bytes of voxels",
    ),
    "voxels before the others": ('BytesInc="108"', 'BytesInc="-108"', "steps"),
    "no voxels": ('NumberOfElements="70"', 'NumberOfElements="0"', "lengths"),
    "no number": ('NumberOfElements="70"', 'NumberOfElements="many"', "many"),
    "many times": ('DimID="3" NumberOfElements="70"', 'DimID="4" NumberOfElements="999999999"', "999999999 images"),
    "wavelengths": ('DimID="3"', 'DimID="5"', "axes are x, y, number 5"),
    "the same axis twice": ('DimID="3"', 'DimID="2"', "axes are x, y, y"),
    "bits": ('BitInc="0"', 'BitInc="1"', "bits"),
    "wide values": ('Resolution="16"', 'Resolution="65"', "65 bits"),
    "small real numbers": ('DataType="0" ChannelTag="0" Resolution="16"', 'DataType="1" Resolution="8"', "f1"),
    "another block": ('MemoryBlockID="MemBlock_0"', 'MemoryBlockID="MemBlock_1"', "MemBlock_1"),
    "no block": ('<Memory Size="7560" MemoryBlockID="MemBlock_0"/>', "", "no Memory"),
    "no series": ("Image>", "Picture>", "no image"),
    "entities": ("<LMSData", '<!DOCTYPE x [<!ENTITY a SYSTEM "/etc/passwd">]><LMSData', "document type"),
    "XML without an end": ("</Element>", "", "mismatched"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_declared_is_checked(path: Path, name: str) -> None:
    old, new, message = CHANGES[name]
    content = lif(Series("a", voxels("zyx"), "zyx"))
    start = 13 + 2 * int.from_bytes(content[9:13], "little")
    xml = content[13:start].decode("utf-16-le")
    changed, count = re.subn(old, new, xml)
    assert count
    path.write_bytes(framed(changed) + content[start:])
    with pytest.raises(InputError, match=rf"a\.lif.*{message}"):
        LifSource(path)


def test_channels_of_several_types_are_refused(path: Path) -> None:
    array = voxels("czyx")
    xml = element(Series("a", array, "czyx"), "b").replace('Resolution="16"', 'Resolution="8"', 1)
    path.write_bytes(header(xml) + block("b", array.tobytes()))
    with pytest.raises(InputError, match=r"a\.lif: the channels have several types"):
        LifSource(path)


OTHERS = {
    "nothing": b"",
    "text": b"no microscope has written this",
    "XML with other files": (
        b'<?xml version="1.0"?><LMSDataContainerHeader Version="2"><Element Name="x"><Children>'
        b'<Reference File="/etc/passwd"/></Children></Element></LMSDataContainerHeader>'
    ),
    "LOF": framed("LMS_Object_File"),
    "long XML": b"\x70\0\0\0\0\0\0\0\x2a\xff\xff\xff\xff" + b"<\0a\0/\0>\0",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused(path: Path, name: str) -> None:
    path.write_bytes(OTHERS[name])
    for open_file in (LifSource, LifSource.images_in):
        with pytest.raises(InputError, match=r"a\.lif: cannot be read"):
            open_file(path)


def test_missing_files_and_packages_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"a\.lif: no such file"):
        LifSource(path)
    path.write_bytes(lif(Series("a", voxels("zyx"), "zyx")))
    monkeypatch.setitem(sys.modules, "liffile", None)
    with pytest.raises(InputError, match=r"needs the package liffile; .*pip install -r requirements-formats\.txt"):
        LifSource(path)
