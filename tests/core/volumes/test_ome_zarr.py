"""OME-Zarr images against arrays that zarr, or a plain loop over files, wrote with metadata as in the specification."""

import itertools
import json
import sys
import zlib

import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.volumes.budget import memory_for
from lib.core.volumes.ome_zarr import OmeZarrSource
from ome_zarr_files import (
    multiscale,
    numbered,
    read_attributes,
    save,
    scale_of,
    translation_of,
    write_array,
    write_attributes,
)

pytest.importorskip("zarr", reason="zarr needs Python 3.11")
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])
SHARDED = {"chunks": (2, 2, 2), "shards": (4, 4, 4)}


def placed(spacing, origin=(0, 0, 0)):
    """The affine to RAS of an image whose axes go along LPS."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -origin[0], -origin[1], origin[2]
    return affine


def chunk_file(folder, version, *numbers):
    key = "/".join(map(str, numbers))
    return folder / "0" / (key if version == "0.4" else f"c/{key}")


def change(folder, version, **changes):
    """Change the multiscale of an image."""
    content = read_attributes(folder, version)
    content["multiscales"][0].update(changes)
    write_attributes(folder, content, version)


def test_an_image_written_by_hand_is_read(tmp_path):
    """Version 0.4 with big-endian numbers and zlib, without zarr: each file holds a chunk, padded at the edge."""
    array, folder = numbered(5, 6, 7, dtype=">u2"), tmp_path / "a.zarr"
    steps = [[scale_of(3, 2, 1), translation_of(30, 20, 10)]]
    write_attributes(folder, {"multiscales": [multiscale("zyx", steps, "0.4")]}, "0.4")
    (folder / "0").mkdir()
    described = {"zarr_format": 2, "shape": [5, 6, 7], "chunks": [2, 4, 4], "dtype": ">u2", "order": "C"}
    described |= {"compressor": {"id": "zlib", "level": 1}, "fill_value": 0, "filters": None}
    (folder / "0/.zarray").write_text(json.dumps(described))
    padded = np.pad(array, [(0, 1), (0, 2), (0, 1)])
    for i, j, k in itertools.product(range(3), range(2), range(2)):
        chunk = padded[2 * i : 2 * i + 2, 4 * j : 4 * j + 4, 4 * k : 4 * k + 4]
        (folder / f"0/{i}.{j}.{k}").write_bytes(zlib.compress(chunk.astype(">u2").tobytes()))

    source = OmeZarrSource(folder)
    assert source.notes == ()
    assert source.geometry.dtype == np.dtype("=u2")
    assert source.geometry.shape == (7, 6, 5)
    np.testing.assert_allclose(source.geometry.affine, placed((0.001, 0.002, 0.003), (0.01, 0.02, 0.03)))
    np.testing.assert_array_equal(source.read()[0], array.T)


@VERSIONS
@pytest.mark.parametrize("letters", ["zyx", "xyz", "czyx", "yxzc", "tczyx", "zcxty"])
def test_axes_are_known_by_their_names_in_any_order(tmp_path, version, letters):
    sizes = {"t": 2, "c": 3, "z": 5, "y": 6, "x": 7}
    array = numbered(*(sizes[letter] for letter in letters))
    folder = save(tmp_path / "a.zarr", [array], letters, version)
    whole = array
    for letter in "tcxyz":
        if letter not in letters:
            letters, whole = letter + letters, whole[None]
    whole = np.transpose(whole, [letters.index(letter) for letter in "tcxyz"])
    names = OmeZarrSource.images_in(folder)
    assert names == (("t0000", "t0001") if len(whole) == 2 else ())
    for time, voxels in enumerate(whole):
        source = OmeZarrSource(folder / names[time] if names else folder)
        assert source.geometry.channels == len(voxels)
        read = source.read()
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, voxels)
        box = slice(1, 6), slice(3, 5), slice(2, 5)
        np.testing.assert_array_equal(source.read(box), voxels[(slice(None), *box)])


def test_axes_of_time_and_channels_are_known_by_their_type(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(2, 4, 4, 4)], "czyx", "0.5")
    axes = read_attributes(folder, "0.5")["multiscales"][0]["axes"]
    change(folder, "0.5", axes=[{"name": "stain", "type": "channel"}, *axes[1:]])
    assert OmeZarrSource(folder).geometry.channels == 2
    change(folder, "0.5", axes=[{"name": "stain"}, *axes[1:]])
    with pytest.raises(InputError, match="'stain' of type None"):
        OmeZarrSource(folder)


@VERSIONS
def test_scale_and_translation_of_level_and_image_are_composed_with_units(tmp_path, version):
    folder = save(tmp_path / "a.zarr", [numbered(4, 5, 6)], "zyx", version)
    content = multiscale("zyx", [[scale_of(2, 3, 4), translation_of(5, 6, 7)]], version)
    content["coordinateTransformations"] = [scale_of(10, 100, 1000), translation_of(1, 2, 3)]
    for axis, unit in zip(content["axes"], ["nanometer", "angstrom", "millimeter"], strict=True):
        axis["unit"] = unit
    write_attributes(folder, {"multiscales": [content]}, version)
    affine = OmeZarrSource(folder).geometry.affine
    expected = placed((4000, 300e-7, 20e-6), (7003, 602e-7, 51e-6))
    np.testing.assert_allclose(affine, expected, rtol=1e-12)


def test_without_unit_numbers_count_as_micrometres_and_that_is_said(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.4")
    change(folder, "0.4", axes=[{"name": letter, "type": "space"} for letter in "zyx"])
    source = OmeZarrSource(folder)
    np.testing.assert_allclose(source.geometry.spacing, 0.0005)
    assert "micrometres" in source.notes[0]


def test_without_voxel_size_it_is_that_of_the_server(tmp_path, monkeypatch):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.4", [(1, 1, 1)])
    change(folder, "0.4", axes=[{"name": letter, "type": "space"} for letter in "zyx"])
    said = f"{folder}: the file doesn't say how large its voxels are; they count as "
    source = OmeZarrSource(folder)
    assert source.geometry.spacing == (1, 1, 1)
    assert source.notes == (said + "1 mm. Start the server with --conf voxel X,Y,Z",)
    monkeypatch.setenv("SPARSE_UNET3D_VOXEL_SIZE", "0.25,0.5,2.0")
    source = OmeZarrSource(folder)
    assert source.geometry.spacing == (0.25, 0.5, 2)
    assert source.notes == (said + "0.25 x 0.5 x 2 mm (--conf voxel)",)


def pyramid(folder, version="0.5"):
    """Three levels, of 0.5, 1 and 2 micrometres."""
    array = numbered(16, 16, 16)
    return save(folder, [array, array[::2, ::2, ::2], array[::4, ::4, ::4]], "zyx", version), array


@pytest.mark.parametrize(
    ("wanted", "level"),
    [(None, 0), ("0.0001,1,1", 0), ("0.0005,1,1", 0), ("0.0015,0.001,0.001", 1), ("1,1,1", 2)],
)
def test_the_level_is_the_coarsest_within_the_wanted_spacing(tmp_path, monkeypatch, wanted, level):
    folder, array = pyramid(tmp_path / "a.zarr")
    if wanted:
        monkeypatch.setenv("SPARSE_UNET3D_SPACING", wanted)
    source = OmeZarrSource(folder)
    step = 2**level
    np.testing.assert_array_equal(source.read()[0], array.T[::step, ::step, ::step])
    np.testing.assert_allclose(source.geometry.spacing, 0.0005 * step)
    assert len(source.notes) == (level > 0)


def test_the_level_is_the_finest_that_is_not_too_large(tmp_path, monkeypatch):
    folder, _ = pyramid(tmp_path / "a.zarr")
    size = [2 * 16**3 // 8**i for i in range(3)]
    for most, level in ((size[0], 0), (size[0] - 1, 1), (size[1] - 1, 2), (10, 2)):
        monkeypatch.setattr("lib.core.volumes.pyramid.LARGEST_LEVEL", most)
        source = OmeZarrSource(folder)
        assert source.level == level
        assert [f"level {level}" in note and f"{0.0005 * 2**level:g} x" in note for note in source.notes] == (
            [True] * (level > 0)
        )


def test_an_absurd_shape_can_be_described_but_is_not_read(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.5")
    described = json.loads((folder / "0/zarr.json").read_text())
    described["shape"] = [10**7] * 3
    (folder / "0/zarr.json").write_text(json.dumps(described))
    source = OmeZarrSource(folder)
    assert source.geometry.shape == (10**7,) * 3
    with pytest.raises(InputError, match="of memory"), memory_for(source):
        source.read()
    assert source.read((slice(0, 5),) * 3).shape == (1, 5, 5, 5)


@VERSIONS
def test_series_and_images_have_names(tmp_path, version):
    folder, arrays = tmp_path / "a.zarr", [numbered(4, 4, 4) + i for i in range(2)]
    write_attributes(folder, {"bioformats2raw.layout": 3}, version)
    for number, array in enumerate(arrays):
        save(folder / str(number), [array], "zyx", version)
    assert OmeZarrSource.images_in(folder) == ("series0", "series1")
    for number, array in enumerate(arrays):
        source = OmeZarrSource(folder / f"series{number}")
        assert source.geometry.name == str(folder / f"series{number}")
        np.testing.assert_array_equal(source.read()[0], array.T)
    with pytest.raises(InputError, match=r"2 images; give .*series0, series1"):
        OmeZarrSource(folder)
    with pytest.raises(InputError, match="no image 'series2'"):
        OmeZarrSource(folder / "series2")

    write_attributes(folder / "OME", {"series": ["1"]}, version)
    assert OmeZarrSource.images_in(folder) == ()
    np.testing.assert_array_equal(OmeZarrSource(folder).read()[0], arrays[1].T)

    two = save(tmp_path / "b.zarr", arrays, "zyx", version)
    entries = [multiscale("zyx", [[scale_of(1, 1, 1)]], version) for _ in arrays]
    entries[1]["datasets"][0]["path"] = "1"
    write_attributes(two, {"multiscales": entries}, version)
    assert OmeZarrSource.images_in(two) == ("image0", "image1")
    np.testing.assert_array_equal(OmeZarrSource(two / "image1").read()[0], arrays[1].T)


@pytest.mark.parametrize("location", ["start", "end"])
def test_of_a_shard_only_the_chunks_of_the_box_are_read(tmp_path, location):
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    array = numbered(8, 8, 8)
    folder = save(
        tmp_path / "a.zarr",
        [array],
        "zyx",
        "0.5",
        chunks=(8, 8, 8),
        serializer=ShardingCodec(
            chunk_shape=(2, 2, 2),
            codecs=[BytesCodec()],
            index_codecs=[BytesCodec(), Crc32cCodec()],
            index_location=location,
        ),
        compressors=None,
    )
    source = OmeZarrSource(folder)
    np.testing.assert_array_equal(source.read()[0], array.T)
    box = slice(0, 1), slice(1, 4), slice(5, 6)
    np.testing.assert_array_equal(source.read(box)[0], array.T[box])
    assert source.working_memory(box) < source.working_memory()

    file = chunk_file(folder, "0.5", 0, 0, 0)
    content = file.read_bytes()
    for size in (0, 1, 500, 16 * 64 + 4, len(content) - 16, len(content) - 1):
        file.write_bytes(content[:size])
        for part in (box, None):
            with pytest.raises(InputError, match=str(file)):
                source.read(part)


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("0.4", {"compressors": None}),
        *(("0.4", {"compressors": {"id": name}}) for name in ("blosc", "gzip", "zlib", "zstd", "lz4", "bz2", "lzma")),
        ("0.5", {"compressors": None}),
        *(
            ("0.5", {"compressors": [{"name": name, "configuration": settings}]})
            for name, settings in (
                ("gzip", {"level": 1}),
                ("zstd", {"level": 1, "checksum": False}),
                ("blosc", {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}),
            )
        ),
        ("0.5", SHARDED),
    ],
)
def test_a_truncated_chunk_is_refused_by_name_and_an_absent_one_is_the_fill_value(tmp_path, version, options):
    if version == "0.4" and options["compressors"]:
        import numcodecs

        options = {"compressors": numcodecs.get_codec(dict(options["compressors"]))}
    array = np.random.default_rng(1).integers(0, 60000, (6, 8, 8)).astype("uint16")
    folder = save(tmp_path / "a.zarr", [array], "zyx", version, fill_value=9, **options)
    source = OmeZarrSource(folder)
    np.testing.assert_array_equal(source.read()[0], array.T)
    file, good = chunk_file(folder, version, 0, 1, 0), (slice(0, 4), slice(0, 4), slice(0, 4))
    content = file.read_bytes()
    for size in (0, 1, 12, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(InputError, match=f"{file}: the chunk cannot be read"):
            source.read()
        np.testing.assert_array_equal(source.read(good)[0], array.T[good])
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match=str(file)):
        source.read()
    file.rmdir()
    array[:4, 4:, :4] = 9
    np.testing.assert_array_equal(source.read()[0], array.T)


@VERSIONS
def test_only_the_chunks_of_the_box_are_read(tmp_path, version):
    array = numbered(8, 8, 8)
    folder = save(tmp_path / "a.zarr", [array], "zyx", version)
    for numbers in itertools.product(range(2), repeat=3):
        if numbers != (1, 0, 1):
            chunk_file(folder, version, *numbers).write_bytes(b"damaged")
    box = slice(5, 8), slice(0, 4), slice(4, 7)
    np.testing.assert_array_equal(OmeZarrSource(folder).read(box)[0], array.T[box])


@VERSIONS
def test_links_out_of_the_folder_are_refused(tmp_path, version):
    outside, folder = tmp_path / "outside.zarr", tmp_path / "a.zarr"
    for path in (outside, folder):
        save(path, [numbered(8, 8, 8)], "zyx", version)
    source = OmeZarrSource(folder)
    file = chunk_file(folder, version, 1, 1, 1)
    file.unlink()
    file.symlink_to(chunk_file(outside, version, 1, 1, 1))
    with pytest.raises(InputError, match="outside of the folder"):
        source.read()
    file.unlink()
    file.symlink_to(chunk_file(folder, version, 0, 1, 1))
    np.testing.assert_array_equal(source.read()[0, 4:, 4:, 4:], source.read()[0, 4:, 4:, :4])

    for path in ("../outside.zarr/0", str(outside / "0")):
        change(folder, version, datasets=[{"path": path, "coordinateTransformations": [scale_of(1, 1, 1)]}])
        with pytest.raises(InputError, match="outside of the folder"):
            OmeZarrSource(folder)
    name = ".zattrs" if version == "0.4" else "zarr.json"
    (folder / name).unlink()
    (folder / name).symlink_to(outside / name)
    with pytest.raises(InputError, match="outside of the folder"):
        OmeZarrSource(folder)
    # The folder itself may be reached through a link.
    (tmp_path / "link.zarr").symlink_to(outside)
    assert OmeZarrSource(tmp_path / "link.zarr").read().any()


def test_nothing_that_runs_code_is_opened(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.4")
    described = json.loads((folder / "0/.zarray").read_text())
    for changes, message in (
        ({"filters": [{"id": "pickle"}]}, "no Zarr array"),
        ({"compressor": {"id": "pickle"}}, "no Zarr array"),
        ({"filters": [{"id": "delta", "dtype": "<u2"}]}, "codecs bytes, delta"),
        ({"dtype": "|O", "filters": [{"id": "pickle"}], "fill_value": None}, "no Zarr array|type object"),
        ({"dtype": "<c8", "fill_value": None}, "type complex64"),
        ({"dtype": [["a", "<u2"]]}, "type"),
    ):
        (folder / "0/.zarray").write_text(json.dumps({**described, **changes}))
        with pytest.raises(InputError, match=f"{folder}/0: .*({message})"):
            OmeZarrSource(folder)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": ["z", "y", "x"]}, "axes"),
        ({"axes": []}, "can't be used|axes"),
        ({"axes": [{"name": letter} for letter in "zyy"]}, "axes"),
        ({"axes": [{"name": letter} for letter in "cyx"]}, "2-D"),
        ({"axes": [{"name": letter} for letter in "czyx"]}, "4 axes|axes czyx"),
        ({"axes": [{"name": letter, "unit": "furlong"} for letter in "zyx"]}, "'furlong'"),
        ({"datasets": []}, "datasets"),
        ({"datasets": [{"path": "5"}]}, "no Zarr array"),
        *(
            ({"datasets": [{"path": "0", "coordinateTransformations": [step]}]}, "can't be used")
            for step in (
                scale_of(1, 1),
                scale_of(1),
                scale_of(0, 1, 1),
                scale_of(1, float("nan"), 1),
                scale_of(1, 1, -1),
                {"type": "scale", "path": "scales"},
                {"type": "affine", "affine": []},
            )
        ),
        ({"datasets": [{"path": "0", "coordinateTransformations": [scale_of(1e-320, 1, 1)]}]}, "scale"),
        ({"coordinateTransformations": 5}, "can't be used"),
    ],
)
def test_metadata_that_cannot_be_used_are_refused(tmp_path, version, changes, message):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", version)
    change(folder, version, **changes)
    with pytest.raises(InputError, match=f"{folder}.*({message})"):
        OmeZarrSource(folder)


@VERSIONS
def test_other_layouts_and_damaged_metadata_are_refused(tmp_path, version):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", version)
    good, name = read_attributes(folder, version), ".zattrs" if version == "0.4" else "zarr.json"
    for content, message in (
        ({"plate": {}}, "plate"),
        ({}, "no 'multiscales'"),
        ({"multiscales": 5}, "no 'multiscales'"),
        ({"multiscales": [5]}, "can't be used"),
        ({"bioformats2raw.layout": 3, "0": 1}, "no 'multiscales'|no OME-Zarr image"),
        ({**good, "version": "0.6", "multiscales": [{**good["multiscales"][0], "version": "0.6"}]}, "version '0.6'"),
    ):
        write_attributes(folder, content, version)
        with pytest.raises(InputError, match=message):
            OmeZarrSource(folder)
    for text in ("", "[]", "{", "[" * 100_000, " " * (1 << 25)):
        (folder / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}: cannot be read"):
            OmeZarrSource(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match="no OME-Zarr image"):
        OmeZarrSource(folder)
    with pytest.raises(InputError, match="no such folder"):
        OmeZarrSource.images_in(tmp_path / "b.zarr")
    with pytest.raises(InputError, match=r"no OME-Zarr image|no such folder"):
        OmeZarrSource(tmp_path / "b.zarr")


def test_too_many_points_in_time_are_refused(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(2, 4, 4, 4)], "tzyx", "0.4")
    described = json.loads((folder / "0/.zarray").read_text())
    (folder / "0/.zarray").write_text(json.dumps({**described, "shape": [10**9, 4, 4, 4]}))
    with pytest.raises(InputError, match="points in time"):
        OmeZarrSource(folder)


def test_without_zarr_the_needed_python_is_named(tmp_path, monkeypatch):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.5")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InputError, match=r"OME-Zarr needs Python 3\.11 or newer"):
        OmeZarrSource(folder)


def test_floats_keep_nan(tmp_path):
    array = numbered(4, 4, 4, dtype="float32")
    array[1, 2, 3] = np.nan
    folder = tmp_path / "a.zarr"
    save(folder, [], "zyx", "0.5", [(1, 1, 1)])
    write_array(folder / "0", array, "zyx", "0.5", fill_value=np.nan)
    np.testing.assert_array_equal(OmeZarrSource(folder).read()[0], array.T)
