"""ND2 files, as other readers expect them, against the array that was written, and what is refused of them."""

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nd2
import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

import nd2_files
from lib.core.errors import InputError
from lib.core.volumes.nd2 import Nd2Source
from lib.core.volumes.reading import read_volume
from lib.core.volumes.voxel_size import set_size_without_metadata
from sources import check_voxels

SIZES = {"t": 3, "p": 2, "z": 70, "y": 6, "x": 9}
BOX = (slice(3, 8), slice(1, 5), slice(2, 66))


def voxels(axes: str, dtype: DTypeLike = np.uint16, channels: int = 1) -> NDArray[Any]:
    """An array with these axes, then y, x and channels, and few equal values."""
    shape = [*(SIZES[axis] for axis in f"{axes}yx"), channels]
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def as_channels(array: NDArray[Any]) -> NDArray[Any]:
    """(Z, Y, X, C) as (C, X, Y, Z), by a plain loop over the voxels."""
    result = np.empty(np.array(array.shape)[[3, 2, 1, 0]], array.dtype)
    for z, y, x, c in np.ndindex(array.shape):
        result[c, x, y, z] = array[z, y, x, c]
    return result


def check(path: Path, expected: NDArray[Any]) -> Nd2Source:
    """Check that all voxels, and those of a box, are as expected (C, X, Y, Z)."""
    source = Nd2Source(path)
    check_voxels(source, path, expected, (BOX, (slice(8, 9), slice(5, 6), slice(69, 70))), most=100_000)
    return source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.nd2"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("pad", [0, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("version", [2, 3])
def test_voxels_and_places(path: Path, version: int, channels: int, dtype: DTypeLike, pad: int, compress: bool) -> None:
    array = voxels("z", dtype, channels)
    path.write_bytes(nd2_files.nd2(array, version=version, pad=pad, compress=compress))
    assert Nd2Source.images_in(path) == ()
    source = check(path, as_channels(array))
    np.testing.assert_allclose(source.geometry.affine, np.diag([-4e-4, -4e-4, 1.25e-3, 1]))
    assert source.notes == ()
    with nd2.ND2File(path) as file:
        np.testing.assert_array_equal(file.asarray().reshape(70, channels, 6, 9), array.transpose(0, 3, 1, 2))


def test_colours_are_channels(path: Path) -> None:
    array = voxels("z", np.uint8, 3)
    path.write_bytes(nd2_files.nd2(array, planes=1))
    check(path, as_channels(array))


@pytest.mark.parametrize("version", [2, 3])
def test_several_positions_and_times(path: Path, version: int) -> None:
    array = voxels("tpz")
    path.write_bytes(nd2_files.nd2(array, "tpz", version))
    assert Nd2Source.images_in(path) == tuple(f"t{t:04}_p{p:04}" for t in range(3) for p in range(2))
    check(path / "t0002_p0001", as_channels(array[2, 1]))
    with pytest.raises(InputError, match=r"6 images in this file.*no name was given"):
        Nd2Source(path)
    with pytest.raises(InputError, match="none is 'other'"):
        Nd2Source(path / "other")


def test_positions_that_lie_within_slices(path: Path) -> None:
    array = voxels("zp")
    path.write_bytes(nd2_files.nd2(array, "zp"))
    check(path / "p0001", as_channels(array[:, 1]))


def test_without_voxel_size(path: Path) -> None:
    path.write_bytes(nd2_files.nd2(voxels("z"), size=None))
    source = Nd2Source(path)
    assert source.geometry.spacing == (1, 1, 1)
    assert source.notes[0].endswith("they count as 1 mm. Start the server with --conf voxel X,Y,Z")
    set_size_without_metadata((0.1, 0.2, 0.3))
    try:
        np.testing.assert_allclose(Nd2Source(path).geometry.spacing, (0.1, 0.2, 0.3))
    finally:
        set_size_without_metadata(None)


def test_planes_of_several_times_are_no_volume(path: Path) -> None:
    path.write_bytes(nd2_files.nd2(voxels("t"), "t"))
    with pytest.raises(InputError, match="a 2-D image"):
        read_volume(path / "t0001")


@pytest.mark.parametrize("compress", [False, True])
def test_every_truncated_file_is_refused(path: Path, compress: bool) -> None:
    content = nd2_files.nd2(voxels("z"), compress=compress)
    for length in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a\.nd2: cannot be read"):
            Nd2Source(path)


def test_missing_planes_are_never_black(path: Path) -> None:
    chunks = nd2_files.nd2_chunks(voxels("tz"), "tz")
    del chunks[b"ImageDataSeq|143!"]
    path.write_bytes(nd2_files.chunks(chunks))
    check(path / "t0001", as_channels(voxels("tz")[1]))
    with pytest.raises(InputError, match=r"t0002: slice 4 of 70 is missing in the file"):
        Nd2Source(path / "t0002")


def plane_shortened(content: bytes) -> bytes:
    return content[:-1]


def plane_changed(content: bytes) -> bytes:
    return content[:20] + bytes([content[20] ^ 255]) + content[21:]


def plane_inflated(_: bytes) -> bytes:
    return bytes(8) + zlib.compress(bytes(1 << 25), 9)


@pytest.mark.parametrize(
    ("change", "compress"),
    [(plane_shortened, False), (plane_shortened, True), (plane_changed, True), (plane_inflated, True)],
)
def test_damaged_planes_are_named(path: Path, change: Callable[[bytes], bytes], compress: bool) -> None:
    chunks = nd2_files.nd2_chunks(voxels("z"), compress=compress)
    chunks[b"ImageDataSeq|3!"] = change(chunks[b"ImageDataSeq|3!"])
    path.write_bytes(nd2_files.chunks(chunks))
    source = Nd2Source(path)
    assert source.read((slice(0, 9), slice(0, 6), slice(4, 70))).any()
    for box in (None, (slice(0, 1), slice(0, 1), slice(3, 4))):
        with pytest.raises(InputError, match=r"a\.nd2: slice 4 \(plane 3\) is damaged or incomplete \("):
            source.read(box)


def test_a_plane_in_the_place_of_another_is_refused(path: Path) -> None:
    content = nd2_files.nd2(voxels("z"))
    path.write_bytes(content.replace(b"ImageDataSeq|3!", b"ImageDataSeq|4!", 1))
    with pytest.raises(InputError, match=r"a\.nd2: slice 4 \(plane 3\) is damaged.*ImageDataSeq\|4!' is in its place"):
        Nd2Source(path).read()


ATTRIBUTES: dict[str, tuple[dict[str, Any], str]] = {
    "wider than a row": ({"uiWidth": 10}, "18 bytes a row"),
    "no pixels": ({"uiWidth": 0}, "18 bytes a row"),
    "higher than the file": ({"uiHeight": 2**31}, "can't hold"),
    "no rows": ({"uiHeight": 0}, "can't hold"),
    "long rows": ({"uiWidthBytes": 2**31}, "can't hold"),
    "many channels": ({"uiComp": 2**31}, "18 bytes a row"),
    "lossy": ({"eCompression": 1, "dCompressionParam": 0.5}, "16 bits with lossy compression"),
    "12 bits": ({"uiBpcInMemory": 12}, "12 bits"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_what_is_declared_is_checked(path: Path, name: str) -> None:
    changed, message = ATTRIBUTES[name]
    path.write_bytes(nd2_files.nd2(voxels("z"), **changed))
    with pytest.raises(InputError, match=rf"a\.nd2.*{message}"):
        Nd2Source(path)


@pytest.mark.parametrize("axes", ["zz", "custom"])
def test_other_axes_are_refused(path: Path, axes: str) -> None:
    path.write_bytes(nd2_files.nd2(voxels("zp" if axes == "zz" else "z"), axes))
    with pytest.raises(InputError, match=r"a\.nd2: the axes are X, Y"):
        Nd2Source(path)


def test_line_scans_are_refused(path: Path) -> None:
    path.write_bytes(nd2_files.nd2(voxels("z"), line_scan=True))
    with pytest.raises(InputError, match=r"a\.nd2: the axes are X, Y, z, time along a line"):
        Nd2Source(path)


def test_many_slices_and_times_are_refused(path: Path) -> None:
    for axes, message in (("z", "can't hold"), ("t", "999999999 images in this file")):
        chunks = nd2_files.nd2_chunks(voxels(axes), axes)
        about = nd2_files.metadata(voxels(axes), axes)["ImageMetadata"]
        about["SLxExperiment"]["uLoopPars"]["uiCount"] = 999999999
        path.write_bytes(nd2_files.chunks({**chunks, b"ImageMetadataLV!": nd2_files.binary(about)}))
        with pytest.raises(InputError, match=rf"a\.nd2: .*{message}"):
            Nd2Source(path)


def test_compressed_metadata(path: Path) -> None:
    chunks = nd2_files.nd2_chunks(voxels("z"))
    for name in (b"ImageAttributesLV!", b"ImageMetadataLV!"):
        chunks[name] = nd2_files.compressed(chunks[name])
    path.write_bytes(nd2_files.chunks(chunks))
    check(path, as_channels(voxels("z")))
    chunks[b"ImageMetadataLV!"] = nd2_files.compressed(bytes(1 << 25))
    path.write_bytes(nd2_files.chunks(chunks))
    with pytest.raises(InputError, match=r"a\.nd2: cannot be read \(.*expands to more than 16777216 bytes"):
        Nd2Source(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_entities_are_refused(path: Path, encoding: str) -> None:
    chunks = nd2_files.nd2_chunks(voxels("z"), version=2)
    document = '<!DOCTYPE x [<!ENTITY a SYSTEM "/etc/passwd">]>' + chunks[b"ImageMetadata!"].decode().split("?>")[1]
    path.write_bytes(nd2_files.chunks({**chunks, b"ImageMetadata!": document.encode(encoding)}, 2))
    with pytest.raises(InputError, match=r"a\.nd2: cannot be read \(its XML has a document type"):
        Nd2Source(path)


OTHERS = {
    "nothing": b"",
    "text": b"no microscope has written this",
    "deep metadata": nd2_files.chunks(nd2_files.nd2_chunks(voxels("z")) | {b"ImageMetadataLV!": b"\x0b\1\0\0" * 99999}),
    "no metadata": nd2_files.chunks({}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused(path: Path, name: str) -> None:
    path.write_bytes(OTHERS[name])
    for open_file in (Nd2Source, Nd2Source.images_in):
        with pytest.raises(InputError, match=r"a\.nd2: cannot be read"):
            open_file(path)


def test_files_of_early_versions_are_refused(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(1000))
    with pytest.raises(InputError, match=r"a\.nd2: an ND2 file by NIS-Elements before version 3"):
        Nd2Source(path)


def test_missing_files_and_packages_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"a\.nd2: no such file"):
        Nd2Source(path)
    path.write_bytes(nd2_files.nd2(voxels("z")))
    monkeypatch.setitem(sys.modules, "nd2", None)
    with pytest.raises(InputError, match=r"needs the package nd2; .*pip install -r requirements-formats\.txt"):
        Nd2Source(path)
