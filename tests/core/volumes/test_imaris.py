"""Imaris files against arrays that h5py wrote in the documented layout."""

import sys

import numpy as np
import pytest

from imaris_files import characters, write_imaris
from lib.core.errors import InputError
from lib.core.volumes.imaris import ImarisSource

h5py = pytest.importorskip("h5py")
DATA = "DataSet/ResolutionLevel 0/TimePoint 0/Channel 0/Data"


def numbered(*shape, dtype="u2"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.fixture
def file(tmp_path):
    return write_imaris(tmp_path / "a.ims", [numbered(1, 2, 7, 6, 5)])


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", ">u2"])
@pytest.mark.parametrize("options", [{}, {"chunks": None, "compression": None}, {"shuffle": True, "fletcher32": True}])
def test_voxels_and_place(tmp_path, dtype, options):
    array = numbered(1, 2, 7, 6, 5, dtype=dtype)
    path = write_imaris(tmp_path / "a.ims", [array], (10, 20, 30), (10 + 7 * 2, 20 + 6 * 3, 30 + 5 * 4), **options)
    source = ImarisSource(path)
    assert source.geometry.shape == (7, 6, 5)
    assert source.geometry.channels == 2
    assert source.geometry.dtype == np.dtype(dtype).newbyteorder("=")
    assert source.notes == source.images_in(path) == ()
    # The centre of the first voxel is half a voxel within the extent.
    np.testing.assert_allclose(
        source.geometry.affine, [[-2e-3, 0, 0, -11e-3], [0, -3e-3, 0, -21.5e-3], [0, 0, 4e-3, 32e-3], [0, 0, 0, 1]]
    )
    read = source.read()
    assert read.flags.c_contiguous
    assert read.dtype == source.geometry.dtype
    np.testing.assert_array_equal(read, array[0])


@pytest.mark.parametrize("box", [np.s_[1:7, 3:5, 2:5], np.s_[0:7, 0:6, 3:4], np.s_[6:7, 5:6, 0:5]])
@pytest.mark.parametrize("chunk", [(4, 4, 4), (1, 8, 8), (5, 2, 3)])
def test_boxes(tmp_path, box, chunk):
    array = numbered(1, 2, 7, 6, 5)
    source = ImarisSource(write_imaris(tmp_path / "a.ims", [array], chunk=chunk))
    np.testing.assert_array_equal(source.read(box), array[0][(slice(None), *box)])


def test_points_in_time_are_images(tmp_path):
    array = numbered(3, 2, 7, 6, 5)
    path = write_imaris(tmp_path / "a.ims", [array])
    assert ImarisSource.images_in(path) == ("t0000", "t0001", "t0002")
    for time, name in enumerate(ImarisSource.images_in(path)):
        np.testing.assert_array_equal(ImarisSource(path / name).read(), array[time])
    for wrong in (path, path / "t0003"):
        with pytest.raises(InputError, match="t0000, t0001, t0002"):
            ImarisSource(wrong)


# Voxels of level 1 are 2.25 µm wide.
@pytest.mark.parametrize(("wanted", "level"), [(None, 0), ("0.002,0.002,0.002", 0), ("0.003,0.003,0.003", 1)])
def test_the_level_for_the_wanted_spacing_covers_the_same_extent(tmp_path, monkeypatch, wanted, level):
    levels = [numbered(1, 1, 9, 8, 6), numbered(1, 1, 4, 4, 6)]
    path = write_imaris(tmp_path / "a.ims", levels, (1, 2, 3), (10, 10, 9))
    if wanted:
        monkeypatch.setenv("SPARSE_UNET3D_SPACING", wanted)
    source = ImarisSource(path)
    np.testing.assert_array_equal(source.read(), levels[level][0])
    np.testing.assert_allclose(source.geometry.spacing, [(1e-3, 1e-3, 1e-3), (2.25e-3, 2e-3, 1e-3)][level])
    corner = source.geometry.affine @ [-0.5, -0.5, -0.5, 1]
    np.testing.assert_allclose(corner[:3], [-1e-3, -2e-3, 3e-3])
    assert ["level 1" in note for note in source.notes] == [True] * level


def test_a_level_of_two_gigabytes_is_used_at_most(tmp_path, monkeypatch):
    levels = [numbered(1, 1, 8, 8, 6), numbered(1, 1, 4, 4, 6)]
    path = write_imaris(tmp_path / "a.ims", levels)
    monkeypatch.setattr("lib.core.volumes.pyramid.LARGEST_LEVEL", levels[0].nbytes - 1)
    assert ImarisSource(path).geometry.shape == (4, 4, 6)


@pytest.mark.parametrize(
    ("unit", "millimetres"), [("um", 1e-3), ("nm", 1e-6), ("mm", 1), ("m", 1000), ("\u00b5m", 1e-3), ("", 1e-3)]
)
def test_units(tmp_path, unit, millimetres):
    source = ImarisSource(write_imaris(tmp_path / "a.ims", [numbered(1, 1, 7, 6, 5)], high=(7, 12, 15), unit=unit))
    np.testing.assert_allclose(source.geometry.spacing, np.array([1, 2, 3]) * millimetres)
    assert ["without a unit" in note for note in source.notes] == ([] if unit else [True])


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(InputError, match="the unit 'parsec'; expected pm"):
        ImarisSource(write_imaris(tmp_path / "a.ims", [numbered(1, 1, 7, 6, 5)], unit="parsec"))


def test_without_voxel_size_it_is_that_of_the_server(file, monkeypatch):
    with h5py.File(file, "a") as content:
        del content["DataSetInfo/Image"].attrs["ExtMax1"]
    source = ImarisSource(file)
    np.testing.assert_array_equal(source.geometry.affine, np.diag([-1, -1, 1, 1]))
    said = f"{file}: the file doesn't say how large its voxels are; they count as "
    assert source.notes == (f"{said}1 mm. Start the server with --conf voxel X,Y,Z",)
    monkeypatch.setenv("SPARSE_UNET3D_VOXEL_SIZE", "0.25,0.5,2.0")
    assert ImarisSource(file).geometry.spacing == (0.25, 0.5, 2)


def without_channel(content):
    del content["DataSet/ResolutionLevel 0/TimePoint 0/Channel 1"]


def without_first_channel(content):
    del content["DataSet/ResolutionLevel 0/TimePoint 0/Channel 0"]


def replaced(content, **options):
    """Write channel 0 in another way."""
    del content[DATA]
    content.create_dataset(DATA, **options)


def with_link(content, link):
    del content[DATA]
    content[DATA] = link


def virtual(content):
    layout = h5py.VirtualLayout((8, 8, 8), "u2")
    layout[:] = h5py.VirtualSource("other.h5", "data", (8, 8, 8))
    del content[DATA]
    content.create_virtual_dataset(DATA, layout)


def sized(content, axis, size):
    content[DATA].parent.attrs[f"ImageSize{axis}"] = characters(size)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_channel, "1 channels in .*TimePoint 0, expected 2"),
        (without_first_channel, "'Channel 0' is missing"),
        (lambda content: content.pop("DataSetInfo"), "'DataSetInfo' is missing"),
        (lambda content: content.pop("DataSet"), "'DataSet' is missing"),
        (lambda content: content.pop("DataSet/ResolutionLevel 0/TimePoint 0"), "no point in time"),
        (lambda content: with_link(content, h5py.ExternalLink("other.h5", "/data")), "a link to another place"),
        (lambda content: with_link(content, h5py.SoftLink("/DataSetInfo")), "a link to another place"),
        (virtual, "in other files"),
        (
            lambda content: replaced(content, shape=(8, 8, 8), dtype="u2", external=[("other.raw", 0, 1024)]),
            "in other files",
        ),
        (lambda content: replaced(content, data=np.zeros((8, 8, 8), "c8"), chunks=(4, 4, 4)), "type complex64"),
        (lambda content: replaced(content, data=np.zeros((8, 8, 8), "u1"), chunks=(4, 4, 4)), "another shape or type"),
        (lambda content: replaced(content, data=np.zeros((8, 8), "u2")), r"shape \(8, 8\)"),
        (
            lambda content: replaced(content, data=np.zeros((8, 8, 8), "u2"), chunks=(4, 4, 4), scaleoffset=4),
            "filters .6.",
        ),
        # What isn't written counts as zeros in HDF5.
        (lambda content: replaced(content, shape=(8, 8, 8), dtype="u2", chunks=(4, 4, 4)), "more voxels than 0 bytes"),
        (lambda content: replaced(content, shape=(8, 8, 8), dtype="u2"), "more voxels than 0 bytes"),
        (lambda content: sized(content, "X", 9), "shape"),
        (lambda content: sized(content, "Y", 0), "shape"),
        (lambda content: sized(content, "Z", "many"), "many"),
    ],
)
def test_refused(file, change, told):
    with h5py.File(file, "a") as content:
        change(content)
    with pytest.raises(InputError, match=f"{file}.*{told}"):
        ImarisSource(file)


def test_a_missing_chunk_is_named(file):
    with h5py.File(file, "a") as content:
        replaced(content, shape=(8, 8, 8), dtype="u2", chunks=(4, 4, 4))
        content[DATA][:4] = content[DATA][4:, :4] = 1
        content[DATA][4:, 4:, :4] = 1
    with pytest.raises(
        InputError, match=r"chunk at \(4, 4, 4\) \(Z, Y, X\) of /DataSet/.*/Data is missing or of a wrong size"
    ):
        ImarisSource(file)


def test_a_chunk_beyond_the_image_may_be_missing(tmp_path):
    path, array = write_imaris(tmp_path / "a.ims", [numbered(1, 1, 7, 6, 4)]), numbered(4, 6, 7)
    with h5py.File(path, "a") as content:
        replaced(content, shape=(8, 8, 8), dtype="u2", chunks=(4, 4, 4))
        content[DATA][:4, :6, :7] = array
    np.testing.assert_array_equal(ImarisSource(path).read()[0], array.T)


def test_a_damaged_chunk_is_named(file):
    with h5py.File(file) as content:
        chunk = content[DATA].id.get_chunk_info_by_coord((4, 0, 0))
    damaged = bytearray(file.read_bytes())
    damaged[chunk.byte_offset + 2 : chunk.byte_offset + chunk.size] = bytes(chunk.size - 2)
    file.write_bytes(damaged)
    source = ImarisSource(file)
    source.read(np.s_[0:7, 0:6, 0:4])
    with pytest.raises(InputError, match=f"{file}.*planes 4 to 4 of /{DATA}"):
        source.read()


def test_chunks_that_could_not_be_compressed_are_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 1, 7, 6, 5), np.uint8)
    path = write_imaris(tmp_path / "a.ims", [noise])
    with h5py.File(path, "a") as content:
        raw = np.pad(noise[0, 0].T, [(0, 3), (0, 2), (0, 1)])[:4, :4, :4]
        content[DATA].id.write_direct_chunk((0, 0, 0), raw.tobytes(), filter_mask=1)
    np.testing.assert_array_equal(ImarisSource(path).read(), noise[0])


@pytest.mark.parametrize(("stored", "mask"), [(b"short", 1), (b"1234", 0)])
def test_a_chunk_that_is_too_short_is_refused(file, stored, mask):
    """HDF5 reads beyond the end of such a chunk, and crashes or returns what is in memory there."""
    with h5py.File(file, "a") as content:
        content[DATA].id.write_direct_chunk((0, 4, 0), stored, filter_mask=mask)
    with pytest.raises(InputError, match=r"chunk at \(0, 4, 0\) \(Z, Y, X\) of .* is missing or of a wrong size"):
        ImarisSource(file)


def test_truncated_or_other_files_are_refused(file, tmp_path):
    content = file.read_bytes()
    for length in range(0, len(content), 97):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=str(file)):
            ImarisSource(file).read()
    with pytest.raises(InputError, match="no such file"):
        ImarisSource(tmp_path / "b.ims")


def test_a_small_file_that_declares_terabytes_is_refused(file):
    with h5py.File(file, "a") as content:
        replaced(content, shape=(1 << 14,) * 3, dtype="u2", chunks=(64, 64, 64), compression="gzip")
        content[DATA][:64, :64, :64] = 1
        for axis in "XYZ":
            sized(content, axis, 1 << 14)
    with pytest.raises(InputError, match=r"more voxels than .* bytes can hold"):
        ImarisSource(file)


def test_a_file_that_changes_is_noticed(file):
    source = ImarisSource(file)
    write_imaris(file, [numbered(1, 2, 6, 6, 5)])
    with pytest.raises(InputError, match="has changed"):
        source.read()


def test_without_the_package_it_is_said_how_to_install_it(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"reading \.ims files needs the package h5py; install it with pip install -r"):
        ImarisSource(file)
