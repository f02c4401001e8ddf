"""Label maps in OME-Zarr folders, read back by zarr and JSON as the NGFF specification says."""

import json
import os
import shutil

import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.volumes import ome_zarr_labels
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.ome_zarr_labels import write_label_image
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

zarr = pytest.importorskip("zarr", reason="zarr needs Python 3.11")
VERSIONS = pytest.mark.parametrize("version", ["0.4", "0.5"])
NAMES, COLORS = {1: "inside", 2: "tubule"}, {1: (255, 0, 0), 2: (0, 127, 255)}


def write(source, array, name="cells"):
    write_label_image(source.image.group, name, array, source, NAMES, COLORS)


def labels_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 3, shape).astype("uint8")


def stored(folder, version, path="labels/cells"):
    """The arrays of each level, and the attributes."""
    attributes = read_attributes(folder / path, version)
    datasets = attributes["multiscales"][0]["datasets"]
    group = zarr.open_group(folder / path, mode="r", zarr_format=2 if version == "0.4" else 3)
    return [group[data["path"]] for data in datasets], attributes


@VERSIONS
@pytest.mark.parametrize("letters", ["zyx", "cxzy"])
@pytest.mark.parametrize("options", [{}, {"chunks": 2, "shards": 4}])
def test_labels_lie_on_each_level_of_the_image(tmp_path, version, letters, options):
    """The levels have odd sizes, and begin half a voxel later, as after averaging."""
    if options and version == "0.4":
        options = {"chunks": 3}
    sizes = {"c": 2, "z": 5, "y": 9, "x": 11}
    image = numbered(*(sizes[letter] for letter in letters))
    options = {key: tuple(value if a != "c" else 1 for a in letters) for key, value in options.items()}
    steps = [
        [
            scale_of(*(1 if a == "c" else 2**i for a in letters)),
            translation_of(*(0 if a == "c" else (2**i - 1) / 2 for a in letters)),
        ]
        for i in range(3)
    ]
    folder = tmp_path / "a.zarr"
    write_attributes(folder, {"multiscales": [multiscale(letters, steps, version)]}, version)
    for i in range(3):
        part = image[tuple(slice(None) if a == "c" else slice(None, None, 2**i) for a in letters)]
        write_array(folder / str(i), part, letters, version, **options)
    source = OmeZarrSource(folder)
    array = labels_of(source.geometry.shape)
    write(source, array)

    levels, attributes = stored(folder, version)
    kept = letters.replace("c", "")
    assert [axis["name"] for axis in attributes["multiscales"][0]["axes"]] == list(kept)
    assert all(axis["unit"] == "micrometer" for axis in attributes["multiscales"][0]["axes"])
    for i, level in enumerate(levels):
        assert level.dtype == np.uint8
        read = np.transpose(level[:], [kept.index(a) for a in "xyz"])
        expected = np.empty_like(read)
        for voxel in np.ndindex(*read.shape):
            # (2**i - 1) / 2 + 2**i * voxel, to the nearest, of two equally near ones the even
            nearest = [
                min(round((2**i - 1) / 2 + 2**i * v), size - 1) for v, size in zip(voxel, array.shape, strict=True)
            ]
            expected[voxel] = array[tuple(nearest)]
        np.testing.assert_array_equal(read, expected)
        scale, translation = attributes["multiscales"][0]["datasets"][i]["coordinateTransformations"]
        assert scale == scale_of(*[2**i] * 3)
        assert translation == translation_of(*[(2**i - 1) / 2] * 3)
        if version == "0.5":
            assert level.metadata.dimension_names == tuple(kept)

    described = attributes["image-label"]
    assert described["colors"] == [
        {"label-value": 1, "rgba": [255, 0, 0, 255]},
        {"label-value": 2, "rgba": [0, 127, 255, 255]},
    ]
    assert described["properties"] == [{"label-value": 1, "name": "inside"}, {"label-value": 2, "name": "tubule"}]
    assert described["source"] == {"image": "../../"}
    assert attributes["multiscales"][0].get("version", attributes.get("version")) == version
    assert read_attributes(folder / "labels", version)["labels"] == ["cells"]
    again = OmeZarrSource(folder / "labels/cells")
    np.testing.assert_array_equal(again.read()[0], array)
    np.testing.assert_allclose(again.geometry.affine, source.geometry.affine)


@VERSIONS
def test_labels_of_a_coarse_level_are_written_on_the_finer_ones_too(tmp_path, version, monkeypatch):
    image = numbered(8, 8, 8)
    folder = save(tmp_path / "a.zarr", [image, image[::2, ::2, ::2]], "zyx", version, [(1, 1, 1), (2, 2, 2)])
    monkeypatch.setenv("SPARSE_UNET3D_SPACING", "0.002,0.002,0.002")
    source = OmeZarrSource(folder)
    assert source.level == 1
    array = labels_of((4, 4, 4))
    write(source, array)
    levels, _ = stored(folder, version)
    np.testing.assert_array_equal(levels[1][:], array.T)
    nearest = [min(round(v / 2), 3) for v in range(8)]
    np.testing.assert_array_equal(levels[0][:], array.T[np.ix_(nearest, nearest, nearest)])


@VERSIONS
def test_each_point_in_time_has_its_labels(tmp_path, version):
    folder = save(tmp_path / "a.zarr", [numbered(3, 2, 4, 5, 6)], "tczyx", version)
    arrays = {time: labels_of((6, 5, 4), time) for time in (0, 2)}
    for time, array in arrays.items():
        write(OmeZarrSource(folder / f"t000{time}"), array)
    (level,), _ = stored(folder, version)
    assert level.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(level[:], [arrays[0].T, np.zeros((4, 5, 6)), arrays[2].T])
    write(OmeZarrSource(folder / "t0000"), arrays[2] * 0)
    assert not stored(folder, version)[0][0][0].any()
    np.testing.assert_array_equal(stored(folder, version)[0][0][2], arrays[2].T)


@VERSIONS
def test_labels_are_replaced_and_listed_with_others(tmp_path, version):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", version)
    write_attributes(folder / "labels", {"labels": ["nuclei"], "kept": 1}, version)
    source = OmeZarrSource(folder)
    for seed in range(2):
        write(source, labels_of((4, 4, 4), seed))
    np.testing.assert_array_equal(stored(folder, version)[0][0][:], labels_of((4, 4, 4), 1).T)
    content = read_attributes(folder / "labels", version)
    assert content["labels"] == ["nuclei", "cells"]
    assert content["kept"] == 1
    if version == "0.4":
        assert json.loads((folder / "labels/.zgroup").read_text()) == {"zarr_format": 2}
    shown = {"zarr.json"} if version == "0.5" else {".zgroup", ".zattrs"}
    assert set(os.listdir(folder / "labels")) == {"cells", *shown}


@VERSIONS
def test_labels_of_other_programs_stay(tmp_path, version):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", version)
    save(folder / "labels/cells", [numbered(4, 4, 4)], "zyx", version)
    with pytest.raises(InputError, match="made by another program"):
        write(OmeZarrSource(folder), labels_of((4, 4, 4)))
    np.testing.assert_array_equal(stored(folder, version)[0][0][:], numbered(4, 4, 4))


@VERSIONS
def test_a_failure_leaves_the_old_labels(tmp_path, version, monkeypatch):
    image = numbered(8, 8, 8)
    folder = save(tmp_path / "a.zarr", [image, image[::2, ::2, ::2]], "zyx", version)
    source, old = OmeZarrSource(folder), labels_of((8, 8, 8))
    write(source, old)
    listed, whole = set(os.listdir(folder / "labels")), ome_zarr_labels._write_level
    seen = []

    def full(group, path, *others):
        if path == "1":
            seen.extend(set(os.listdir(folder / "labels")) - listed)
            raise OSError("disk full")
        whole(group, path, *others)

    monkeypatch.setattr(ome_zarr_labels, "_write_level", full)
    with pytest.raises(OSError, match="disk full"):
        write(source, labels_of((8, 8, 8), 1))
    assert len(seen) == 1
    assert seen[0].startswith(".")
    assert set(os.listdir(folder / "labels")) == listed
    np.testing.assert_array_equal(stored(folder, version)[0][0][:], old.T)


def test_what_a_killed_process_left_is_removed(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.5")
    source = OmeZarrSource(folder)
    write(source, labels_of((4, 4, 4)))
    left = folder / "labels/.writing-x"
    shutil.copytree(folder / "labels/cells", left)
    os.utime(left, (0, 0))
    write(source, labels_of((4, 4, 4)))
    assert not left.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "zarr.json/x"])
def test_names_that_are_no_folders_are_refused(tmp_path, name):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.5")
    with pytest.raises(InputError, match="name it"):
        write(OmeZarrSource(folder), labels_of((4, 4, 4)), name)


def test_labels_are_not_written_through_a_link_out_of_the_folder(tmp_path):
    folder = save(tmp_path / "a.zarr", [numbered(4, 4, 4)], "zyx", "0.5")
    (tmp_path / "elsewhere").mkdir()
    (folder / "labels").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="outside of the folder"):
        write(OmeZarrSource(folder), labels_of((4, 4, 4)))
    assert not any((tmp_path / "elsewhere").iterdir())
