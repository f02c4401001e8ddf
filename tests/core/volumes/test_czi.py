"""CZI files that Zeiss' own library wrote, and others written by hand, which that library reads in the same way."""

import struct
from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
from pylibCZIrw import czi

from czi_files import Block, write_czi, xml
from lib.core.errors import InputError
from lib.core.volumes.czi import CziSource

STORED, JPEG, JPEG_XR, ZSTD = 0, 1, 4, 5


def noise(*shape, dtype="u2", seed=0):
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def zeiss(path, images, compression="uncompressed:", **scale):
    """Write images (T, C, Z, Y, X), one for each scene, by Zeiss' library."""
    with czi.create_czi(str(path), compression_options=compression) as file:
        for scene, image in enumerate(images):
            for time, channel, plane in np.ndindex(image.shape[:3]):
                at = {"T": time, "C": channel, "Z": plane}
                file.write(image[time, channel, plane, ..., None], (100 * scene, 10), at, scene=scene)
        file.write_metadata("", **scale)
    return path


def planes(array, **options):
    """The tiles of an image (Z, Y, X), one for each plane."""
    return [Block(plane, {"Z": z, "C": 0}, **options) for z, plane in enumerate(array)]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("compression", ["uncompressed:", "zstd0:", "zstd1:", "zstd1:PreProcess=HiLoByteUnpack"])
def test_voxels_and_size(tmp_path, dtype, compression):
    image = noise(1, 2, 5, 6, 7, dtype=dtype)
    size = {"scale_x": 0.4e-6, "scale_y": 0.5e-6, "scale_z": 1.25e-6}
    path = zeiss(tmp_path / "a.czi", [image], compression if dtype == "u2" else compression.split("P")[0], **size)
    source = CziSource(path)
    assert source.geometry.shape == (7, 6, 5)
    assert source.geometry.dtype == np.dtype(dtype)
    assert source.notes == source.images_in(path) == ()
    np.testing.assert_allclose(source.geometry.affine, np.diag([-0.4e-3, -0.5e-3, 1.25e-3, 1]))
    read = source.read()
    assert read.flags.c_contiguous
    assert read.dtype == source.geometry.dtype
    np.testing.assert_array_equal(read, image[0].transpose(0, 3, 2, 1))


def test_scenes_and_points_in_time_are_images(tmp_path):
    images = [noise(2, 2, 3, 6, 7), noise(2, 2, 3, 5, 8, seed=1)]
    path = zeiss(tmp_path / "a.czi", images)
    names = CziSource.images_in(path)
    assert names == ("scene0_t0000", "scene0_t0001", "scene1_t0000", "scene1_t0001")
    for name, image in zip(names, [image for scene in images for image in scene], strict=True):
        np.testing.assert_array_equal(CziSource(path / name).read(), image.transpose(0, 3, 2, 1))
    for wrong in (path, path / "t0000"):
        with pytest.raises(InputError, match="scene0_t0000, scene0_t0001, scene1_t0000"):
            CziSource(wrong)


def test_indices_may_begin_anywhere(tmp_path):
    array = noise(2, 3, 4, 5)
    blocks = [Block(array[t, z], {"T": 7 + 2 * t, "Z": 4 + z, "C": 1, "X": -30, "Y": 20}) for t, z in np.ndindex(2, 3)]
    path = write_czi(tmp_path / "a.czi", blocks)
    assert CziSource.images_in(path) == ("t0000", "t0001")
    np.testing.assert_array_equal(CziSource(path / "t0001").read()[0], array[1].T)


@pytest.mark.parametrize(("dtype", "compression"), [("u1", STORED), ("u2", ZSTD), ("u2", JPEG_XR), ("u1", JPEG)])
def test_colours_are_channels(tmp_path, dtype, compression):
    """Stored as blue, green and red; JPEG has its own order. JPEG isn't lossless."""
    array = np.kron(noise(2, 2, 3, 3, dtype=dtype), np.ones((1, 16, 16, 1), dtype))
    encode = {
        STORED: lambda plane: plane[..., ::-1].tobytes(),
        ZSTD: lambda plane: imagecodecs.zstd_encode(plane[..., ::-1].tobytes()),
        JPEG_XR: lambda plane: imagecodecs.jpegxr_encode(plane, level=100),
        JPEG: lambda plane: imagecodecs.jpeg8_encode(plane, level=100, subsampling="444"),
    }[compression]
    blocks = [Block(plane, {"Z": z, "C": 0}, 1, compression, encode(plane)) for z, plane in enumerate(array)]
    path = write_czi(tmp_path / "a.czi", blocks)
    source = CziSource(path)
    assert source.geometry.channels == 3
    np.testing.assert_allclose(source.read(), array.transpose(3, 2, 1, 0), atol=3 if compression == JPEG else 0)
    if compression != JPEG:
        with czi.open_czi(str(path)) as file:
            np.testing.assert_array_equal(file.read(plane={"Z": 1})[..., ::-1], array[1])


def test_channels_may_have_different_types(tmp_path):
    colours, grey = noise(2, 4, 5, 3, dtype="u1"), noise(2, 4, 5)
    blocks = [Block(plane, {"Z": z, "C": 0}) for z, plane in enumerate(colours)]
    blocks += [Block(plane, {"Z": z, "C": 1}) for z, plane in enumerate(grey)]
    read = CziSource(write_czi(tmp_path / "a.czi", blocks)).read()
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, [*colours.transpose(3, 2, 1, 0), grey.T])
    with pytest.raises(InputError, match="channel 0 has tiles of several types"):
        CziSource(write_czi(tmp_path / "b.czi", [*blocks[:1], Block(grey[1], {"Z": 1, "C": 0})]))


def mosaic(path):
    """Four tiles a plane that overlap by 2 pixels, of which the one with the largest M is on top; written backwards."""
    array = np.zeros((3, 10, 12), "u2")
    blocks = []
    for plane in range(3):
        for number, (y, x) in enumerate([(0, 0), (0, 5), (4, 0), (4, 5)]):
            tile = noise(6, 7, seed=10 * plane + number)
            array[plane, y : y + 6, x : x + 7] = tile
            blocks.append(Block(tile, {"Z": plane, "C": 0, "X": 50 + x, "Y": y - 20, "M": number}))
    return write_czi(path, blocks[::-1], xml(1, 1, 1)), array


@pytest.mark.parametrize("box", [None, np.s_[0:12, 0:10, 1:2], np.s_[3:9, 2:8, 0:3], np.s_[11:12, 0:1, 2:3]])
def test_tiles_are_put_together(tmp_path, box):
    path, array = mosaic(tmp_path / "a.czi")
    source = CziSource(path)
    assert source.notes == ()
    np.testing.assert_array_equal(source.read(box)[0], array.T[box or ...])
    with czi.open_czi(str(path)) as file:
        np.testing.assert_array_equal(file.read(plane={"Z": 2})[..., 0], array[2])


def test_only_the_tiles_in_a_box_are_read(tmp_path):
    path, array = mosaic(tmp_path / "a.czi")
    content = bytearray(path.read_bytes())
    # The directory still has its entry.
    content[544 : 544 + 14] = b"DELETED\0\0\0\0\0\0\0"
    path.write_bytes(content)
    source = CziSource(path)
    np.testing.assert_array_equal(source.read(np.s_[0:12, 0:10, 0:2])[0], array.T[:, :, :2])
    with pytest.raises(
        InputError, match=r"a\.czi: the tile at X 55, Y -16, Z 2, C 0, M 3 cannot be read \(no ZISRAWSUB"
    ):
        source.read()


def test_what_no_tile_covers_is_zero_and_told(tmp_path):
    tile = noise(3, 4) + 1
    blocks = [Block(tile, {"Z": z, "C": 0, "X": x, "Y": y}) for z in range(2) for x, y in ((0, 0), (4, 2))]
    source = CziSource(write_czi(tmp_path / "a.czi", blocks, xml(1, 1, 1)))
    assert ["2 planes aren't wholly covered" in note for note in source.notes] == [True]
    expected = np.zeros((8, 5), "u2")
    expected[:4, :3] = expected[4:, 2:] = tile.T
    np.testing.assert_array_equal(source.read()[0], np.stack([expected] * 2, axis=-1))


def pyramid(path, *, complete=True):
    """Level 1 with pixels twice as wide, whose sizes are rounded up, in two tiles; returns it as (Z, Y, X)."""
    fine, coarse = noise(3, 10, 13), noise(3, 5, 7, seed=1)
    blocks = planes(fine)
    for plane in range(3):
        blocks.append(Block(coarse[plane, :, :4], {"Z": plane, "C": 0}, factor=2))
        if complete or plane < 2:
            blocks.append(Block(coarse[plane, :, 4:], {"Z": plane, "C": 0, "X": 8}, factor=2))
    return write_czi(path, blocks, xml(1, 2, 5)), fine, coarse


def test_the_level_for_the_wanted_spacing(tmp_path, monkeypatch):
    path, fine, coarse = pyramid(tmp_path / "a.czi")
    np.testing.assert_array_equal(CziSource(path).read()[0], fine.T)
    monkeypatch.setenv("SPARSE_UNET3D_SPACING", "0.003,0.004,0.005")
    source = CziSource(path)
    np.testing.assert_array_equal(source.read()[0], coarse[:, :, :6].T)
    assert ["level 1 of the pyramid" in note for note in source.notes] == [True]
    # The first pixel is the mean of pixels 0 and 1.
    np.testing.assert_allclose(source.geometry.affine @ [0, 0, 0, 1], [-0.0005, -0.001, 0, 1])
    np.testing.assert_allclose(source.geometry.spacing, [0.002, 0.004, 0.005])


def test_an_incomplete_level_is_not_used(tmp_path, monkeypatch):
    path, fine, _ = pyramid(tmp_path / "a.czi", complete=False)
    monkeypatch.setenv("SPARSE_UNET3D_SPACING", "1,1,1")
    np.testing.assert_array_equal(CziSource(path).read()[0], fine.T)


@pytest.mark.parametrize("metadata", [None, "<ImageDocument/>", xml(1, 2, 0)])
def test_without_voxel_size_it_is_that_of_the_server(tmp_path, monkeypatch, metadata):
    path = write_czi(tmp_path / "a.czi", planes(noise(3, 4, 5)), metadata)
    said = f"{path}: the file doesn't say how large its voxels are; they count as "
    assert CziSource(path).geometry.spacing == (1, 1, 1)
    assert CziSource(path).notes == (said + "1 mm. Start the server with --conf voxel X,Y,Z",)
    monkeypatch.setenv("SPARSE_UNET3D_VOXEL_SIZE", "0.25,0.5,2.0")
    assert CziSource(path).geometry.spacing == (0.25, 0.5, 2)
    assert CziSource(path).notes == (said + "0.25 x 0.5 x 2 mm (--conf voxel)",)


def small(path, blocks=None, metadata=None):
    return write_czi(path, planes(noise(3, 4, 5)) if blocks is None else blocks, metadata)


@pytest.mark.parametrize(
    ("blocks", "metadata", "told"),
    [
        ([], None, "no tiles"),
        (planes(noise(3, 4, 5))[::2], None, "channel 0 has no plane 1"),
        ([*planes(noise(2, 4, 5)), Block(noise(4, 5), {"C": 1, "Z": 1})], None, "channel 1 has no plane 0"),
        (planes(noise(3, 4, 5), factor=2), None, "no tiles of the finest level"),
        ([Block(noise(4, 5), {"Z": 0, "X": x}) for x in (0, 1 << 30)], None, "tiles of 40 pixels"),
        (planes(noise(3, 4, 5), compression=2), None, "compression 2; expected none, JPEG"),
        (
            planes(np.broadcast_to(np.uint16(0), (3, 1 << 15, 1 << 15)), compression=ZSTD, data=b"1"),
            None,
            "than the file can hold",
        ),
        (None, "<!DOCTYPE a><ImageDocument/>", "document type"),
        (None, "<ImageDocument>", "damaged XML"),
        (None, xml(1, 1, 1).replace("1e-06", "small"), "small"),
    ],
)
def test_refused(tmp_path, blocks, metadata, told):
    path = small(tmp_path / "a.czi", blocks, metadata)
    with pytest.raises(InputError, match=f"{path}.*{told}"):
        CziSource(path)


@pytest.mark.parametrize(
    ("compression", "data", "told"),
    [
        (STORED, noise(4, 4).tobytes(), "32 bytes, expected 40"),
        (ZSTD, imagecodecs.zstd_encode(bytes(39)), "39 bytes, expected 40"),
        (ZSTD, imagecodecs.zstd_encode(bytes(41)), "too small"),
        (ZSTD, imagecodecs.zstd_encode(noise(4, 5).tobytes())[:-5], ""),
        (6, b"", ""),
        (JPEG_XR, imagecodecs.jpegxr_encode(noise(16, 16)), "shape"),
        (JPEG_XR, b"no image", ""),
    ],
    ids=["short", "expands to less", "expands to more", "ends early", "no header", "of another shape", "no image"],
)
def test_a_damaged_tile_is_named(tmp_path, compression, data, told):
    blocks = planes(noise(3, 4, 5))
    blocks[1] = Block(blocks[1].voxels, {"Z": 1, "C": 0}, 1, compression, data)
    source = CziSource(write_czi(tmp_path / "a.czi", blocks))
    source.read(np.s_[:, :, :1])
    with pytest.raises(InputError, match=rf"a\.czi: the tile at X 0, Y 0, Z 1, C 0 cannot be read .*{told}"):
        source.read()


@pytest.mark.parametrize("position", [36, 68, 80, 84, 92, 100])
def test_other_headers_are_refused_or_do_not_matter(tmp_path, position):
    path = small(tmp_path / "a.czi", metadata=xml(1, 1, 1))
    content, expected = bytearray(path.read_bytes()), CziSource(path).read()
    struct.pack_into("<i", content, position, 0x7FFFFFF0)
    path.write_bytes(content)
    if position in (36, 68, 100):  # Minor version, identifier, a mark that nobody needs.
        np.testing.assert_array_equal(CziSource(path).read(), expected)
    else:
        with pytest.raises(InputError, match=r"a\.czi: cannot be read"):
            CziSource(path)


def test_segments_may_leave_out_how_many_bytes_are_used(tmp_path):
    path = small(tmp_path / "a.czi")
    content, expected = bytearray(path.read_bytes()), CziSource(path).read()
    content[544 + 24 : 544 + 32] = content[(at := content.index(b"ZISRAWDIRECTORY")) + 24 : at + 32] = bytes(8)
    path.write_bytes(content)
    np.testing.assert_array_equal(CziSource(path).read(), expected)


def test_truncated_or_other_files_are_refused(tmp_path):
    path = zeiss(tmp_path / "a.czi", [noise(1, 1, 3, 4, 5)])
    content = path.read_bytes()
    # At the end of the file is padding.
    for length in range(0, len(content) - 32, 101):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"a\.czi"):
            CziSource(path).read()
    with pytest.raises(InputError, match="no such file"):
        CziSource(tmp_path / "b.czi")


def test_damage_anywhere_is_refused_or_changes_only_values(tmp_path):
    """Whatever bytes are changed, there is no other exception than ``InputError``."""
    path = small(tmp_path / "a.czi", metadata=xml(1, 1, 1))
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for position in rng.choice(len(content) - 4, 600, replace=False):
        path.write_bytes(content[:position] + rng.bytes(4) + content[position + 4 :])
        refused += 1
        with suppress(InputError):
            source = CziSource(path)
            if source.geometry.nbytes < 1 << 20:
                source.read()
            refused -= 1
    assert 0 < refused < 600
