"""The command that puts boxes of a large image into a project, against zarr, numpy and ITK."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from lib.commands import crops as module
from lib.commands.crops import make_crops
from lib.commands.inspection_report import inspect_and_report
from lib.commands.segment import plan_tasks, segment_one
from lib.commands.train import train_and_report
from lib.core.data.preparation import prepare_image
from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.model.model import Model
from lib.core.plan.plan import Plan
from lib.core.volumes.nrrd import NrrdSource
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume
from ome_zarr_files import save
from project import APP
from serving import publish, snapshot
from stores import open_store

pytest.importorskip("zarr", reason="zarr needs Python 3.11")

SHAPE = (40, 33, 21)
SIDES = (16, 16, 16)
SCALE = (2.0, 0.5, 0.75)
"""Micrometres along Z, Y, X."""


def image_of(dtype: str = "uint16", channels: int = 2) -> NDArray[Any]:
    """Noise (C, X, Y, Z) that is brighter at one end, so that boxes have other ranges than the whole."""
    values = np.random.default_rng(0).gamma(2, 300, (channels, *SHAPE))
    return (values * np.linspace(0.2, 3, SHAPE[0])[:, None, None]).astype(dtype)


def saved(path: Path, array: NDArray[Any], levels: int = 1) -> Path:
    stored = array.transpose(0, 3, 2, 1)
    pyramid = [stored[:, :: 2**i, :: 2**i, :: 2**i] for i in range(levels)]
    scales = [(1, *(2**i * size for size in SCALE)) for i in range(levels)]
    return save(path, pyramid, "czyx", "0.5", scales, chunks=(1, 8, 8, 8))


def crops(image: Path, studies: Path, count: int, spacing: str = "", model: Path | None = None) -> list[Path]:
    return make_crops(image, studies, 16, count, spacing, model, lambda _what, _fraction: None)


def start_in_name(path: Path) -> list[int]:
    return [int(part[1:]) for part in path.stem.split("-")[-3:]]


def part_of(array: NDArray[Any], start: Sequence[int], sides: Sequence[int] = SIDES) -> NDArray[Any]:
    x, y, z = (slice(first, first + side) for first, side in zip(start, sides, strict=True))
    return array[..., x, y, z]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2])
def test_itk_finds_the_voxels_of_the_image_where_they_lie_in_it(tmp_path: Path, dtype: str, channels: int) -> None:
    array = image_of(dtype, channels)
    for path in crops(saved(tmp_path / "big.ome.zarr", array), tmp_path / "project", 2):
        read = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(read)
        start = start_in_name(path)
        expected = part_of(array, start)
        np.testing.assert_array_equal(voxels.T, expected if channels > 1 else expected[0])
        assert voxels.dtype == ("float32" if dtype == "float16" else dtype)
        np.testing.assert_allclose(read.GetOrigin(), np.multiply(start, SCALE[::-1]) / 1000, rtol=1e-12)
        np.testing.assert_allclose(read.GetSpacing(), np.divide(SCALE[::-1], 1000), rtol=1e-12)
        np.testing.assert_array_equal(np.reshape(read.GetDirection(), (3, 3)), np.eye(3))


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_crop_is_prepared_as_the_same_box_of_the_whole(tmp_path: Path, dtype: str) -> None:
    array = image_of(dtype)
    if dtype == "float32":
        array[:, 20:] += 500  # There, boxes lack the least values of the whole.
        array[0, ::3, 5] = np.nan
        array[:, 20:, 10:20] = np.nan
    image = saved(tmp_path / "big.ome.zarr", array)
    plan = Plan(LabelScheme(("one", "two"), "out"), 2, None, 2, (132, 132, 116))
    whole_volume = read_volume(image)
    whole, _ = prepare_image(whole_volume, plan)
    paths = crops(image, tmp_path / "project", 4)
    for path in paths:
        volume = read_volume(path)
        found, _ = prepare_image(volume, plan)
        np.testing.assert_array_equal(found, part_of(whole.numpy(), start_in_name(path)))
        alone, _ = prepare_image(replace(volume, crop=None), plan)
        assert np.abs((found - alone).numpy()).max() > 0.05
        if whole_volume.outside is not None:
            expected = part_of(whole_volume.outside, start_in_name(path))
            np.testing.assert_array_equal(np.zeros(SIDES) if volume.outside is None else volume.outside, expected)


def test_running_again_adds_boxes_and_changes_none(tmp_path: Path) -> None:
    image, studies = saved(tmp_path / "big.ome.zarr", image_of()), tmp_path / "project"
    first = crops(image, studies, 2)
    # A crop stays what it is under another name.
    first[0].rename(studies / "mine.nrrd")
    before = snapshot(studies)
    second = crops(image, studies, 9)
    assert {**snapshot(studies), **before} == snapshot(studies)
    assert (len(first), len(second)) == (2, 2)  # 2 x 2 x 1 boxes fit
    count = np.zeros(SHAPE, int)
    for path in [*first, *second]:
        part_of(count, start_in_name(path))[...] += 1
    assert count.max() == 1
    with pytest.raises(InputError, match="has all boxes of 16 x 16 x 16 voxels"):
        crops(image, studies, 1)
    assert crops(image, tmp_path / "another", 2)[0].name == first[0].name


def test_constant_boxes_come_last(tmp_path: Path) -> None:
    array = image_of("float32")
    array[:, 20:] = 7
    array[:, :20, :16] = np.nan
    (path, *others) = crops(saved(tmp_path / "big.ome.zarr", array), tmp_path / "project", 4)
    x, y, _ = start_in_name(path)
    assert x < 20
    assert y >= 16
    assert len(others) == 3


def test_the_level_is_chosen_by_the_spacing(tmp_path: Path) -> None:
    array = image_of()
    image = saved(tmp_path / "big.ome.zarr", array, levels=2)
    (path,) = crops(image, tmp_path / "project", 1, "0.0015,0.001,0.004")
    assert path.name.startswith("big-level1-x")
    sides = (16, 16, 11)
    np.testing.assert_array_equal(NrrdSource(path).read(), part_of(array[:, ::2, ::2, ::2], start_in_name(path), sides))
    assert len(crops(image, tmp_path / "project", 9)) == 4


def test_a_model_chooses_where_it_is_least_certain(tmp_path: Path) -> None:
    scheme = LabelScheme(("inside", "tubule"), "outside")
    torch.manual_seed(3)
    publish(tmp_path / "models", scheme)
    model, image = tmp_path / "models/model.pt", saved(tmp_path / "big.ome.zarr", image_of(channels=1))
    every = crops(image, tmp_path / "all", 4)
    by_model = crops(image, tmp_path / "project", 2, model=model)
    trained = Model.load(model)
    segmenter = Segmenter(trained.network, trained.plan, trained.precision)
    _, entropy = segmenter.segment_with_entropy(read_volume(image), Machine("cpu", 10**9))
    means = {path.name: part_of(entropy, start_in_name(path)).mean() for path in every}
    assert [path.name for path in by_model] == sorted(means, key=lambda name: -means[name])[:2]
    with pytest.raises(InputError, match="no model"):
        crops(image, tmp_path / "project", 2, model=tmp_path / "all")


def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, studies = saved(tmp_path / "big.ome.zarr", image_of()), tmp_path / "project"
    (tmp_path / "a.nrrd").write_bytes(b"")
    for path, spacing, words in (
        (tmp_path / "a.nrrd", "", "no OME-Zarr image"),
        (tmp_path / "nowhere.ome.zarr", "", "no such file or folder"),
        (image, "1,2", "expected X,Y,Z"),
        (image, "1,2,nan", "expected X,Y,Z"),
    ):
        with pytest.raises(InputError, match=words):
            crops(path, studies, 2, spacing)
    assert not studies.exists()
    with pytest.raises(InputError, match="File exists"):
        crops(image, tmp_path / "a.nrrd", 1)
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match="--size 16: a box takes"):
        crops(image, studies, 1)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, studies = saved(tmp_path / "big.ome.zarr", image_of()), tmp_path / "project"
    write, written = NrrdSource.write_image, list[Path]()

    def full(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(NrrdSource, "write_image", full)
    with pytest.raises(InputError, match="No space left"):
        crops(image, studies, 3)
    assert len(list(studies.iterdir())) == 1
    assert len(crops(image, studies, 9)) == 3


def test_a_damaged_origin_is_refused_by_name(tmp_path: Path) -> None:
    (path,) = crops(saved(tmp_path / "großes\\.ome.zarr", image_of()), tmp_path / "project", 1)
    crop = NrrdSource(path).geometry.crop
    assert crop
    assert crop.image == "großes\\"
    content = path.read_bytes()
    for old, new in (
        (b'"level": 0', b'"level": x'),
        (b'"start": [', b'"start":[-'),
        (b'"low": ', b'"low": 9e9, "l": '),
    ):
        assert old in content
        path.write_bytes(content.replace(old, new))
        with pytest.raises(InputError, match="sparse_unet3d_crop of the header is damaged"):
            read_volume(path)


def test_inspect_says_where_crops_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = crops(saved(tmp_path / "big.ome.zarr", image_of()), tmp_path / "project", 1)
    inspect_and_report(tmp_path / "project", None, False)
    assert f"{path.stem}: big, level 0, from voxel {tuple(start_in_name(path))}" in capsys.readouterr().out
    inspect_and_report(tmp_path / "project", None, True)
    (found,) = json.loads(capsys.readouterr().out)["images"].values()
    assert found["crop_of"] == {"image": "big", "level": 0, "start": start_in_name(path)}


@pytest.mark.slow
def test_paint_in_crops_trains_a_model_of_the_whole(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60, (1, *SHAPE)).astype(np.uint16)
    array[:, :, ::11] += 200
    array[:, :8] += 2000  # Bright voxels that crops may lack
    image, studies = saved(tmp_path / "big.ome.zarr", array), tmp_path / "project"
    command = [sys.executable, str(APP), "crops", str(image), "--size", "16", "--count", "2", "--studies", str(studies)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    paths = sorted(studies.glob("*.nrrd"))
    assert all(path.name in done.stdout for path in paths)
    scheme = LabelScheme(("bright", "brightest"), "dark")
    names = [{"name": name, "idx": value} for value, name in enumerate(scheme.classes, start=1)]
    store = open_store(studies, scheme)
    for path in paths:
        voxels = NrrdSource(path).read()[0]
        paint = np.zeros(voxels.shape, np.uint8)
        paint[:, :, ::5] = np.where(voxels >= 1900, 2, np.where(voxels >= 190, 1, 3))[:, :, ::5]
        NrrdSource.write(label := tmp_path / "label.nrrd", paint, NrrdSource(path).geometry.affine)
        store.save_label(path.stem, str(label), "final", {"label_info": names})
    request = {"max_epochs": 1, "max_minutes": 0.0, "start": "continue"}
    assert train_and_report(studies, ["width=2"], request, True) == 0
    (task,) = plan_tasks([image], studies, tmp_path / "out")
    result = segment_one(task)
    assert OmeZarrSource(Path(result["out"])).geometry.shape == SHAPE
    assert sum(result["voxels"].values()) == np.prod(SHAPE)
