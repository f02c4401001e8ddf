"""Large volumes in training: each tile reads its box, and is the tile of the volume in memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lib.core.annotation.paint import Paint
from lib.core.augmentation.settings import AugmentationSettings
from lib.core.data import training_volumes
from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import PreparedImage, prepare_image
from lib.core.data.sampling import HeldVolume, SampledVolume, TileSampler
from lib.core.data.training_volumes import LargeVolume, as_prepared, prepare_training, prepared, read_for_training
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.network.architectures import PAPER
from lib.core.plan.plan import Plan
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume
from lib.core.volumes.stored_volume import StoredVolume
from lib.core.volumes.volume import Volume
from ome_zarr_files import save
from painted import structures

SHAPE = (150, 70, 40)
SCHEME = LabelScheme(("inside", "tubule"), "outside")


def plan(spacing: Sequence[float] | None = None) -> Plan:
    return Plan(SCHEME, 2, spacing and tuple(spacing), 2, (100, 100, 100), (132, 132, 116))


def image() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 60000, (2, *SHAPE)).astype(np.uint16)


def annotation() -> NDArray[np.uint8]:
    """Slices at both ends and in the middle, and one across another axis."""
    kept, dense = np.zeros(SHAPE, np.uint8), structures(SHAPE)
    for index in (0, 75, 149):
        kept[index] = dense[index]
    kept[:, :, 39] = dense[:, :, 39]
    return kept


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pytest.importorskip("zarr", reason="zarr needs Python 3.11")
    return save(
        tmp_path / "a.zarr",
        [image().transpose(0, 3, 2, 1)],
        "czyx",
        "0.5",
        [(1, 0.5, 0.5, 0.5)],
        chunks=(1, 32, 32, 32),
    )


def drawn(volume: SampledVolume, context: int = 44) -> list[tuple[torch.Tensor, torch.Tensor]]:
    sampler = TileSampler([volume], SCHEME, PAPER.tiles, (116, 132, 108), AugmentationSettings(), context)
    return [sampler.draw(np.random.default_rng(number)) for number in range(6)]


def assert_same(found: SampledVolume, expected: SampledVolume) -> None:
    for (tile, targets), (its_tile, its_targets) in zip(drawn(found), drawn(expected), strict=True):
        torch.testing.assert_close(tile, its_tile, atol=0, rtol=0)
        torch.testing.assert_close(targets, its_targets, atol=0, rtol=0)


def held(volume: Volume, the_plan: Plan) -> SampledVolume:
    found = prepare_training(volume, Paint(annotation()), the_plan)
    assert isinstance(found, HeldVolume)
    return found


@pytest.mark.parametrize("order", ["C", "F"])
def test_tiles_of_a_large_volume_are_those_of_the_volume_in_memory(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(image(), np.eye(4))
    expected = held(volume, plan())
    monkeypatch.setattr(training_volumes, "HELD", 0)
    painted = np.asarray(annotation(), order=order)  # type: ignore[call-overload]
    large = prepare_training(volume, Paint(painted), plan())
    assert isinstance(large, LargeVolume)
    assert_same(large, expected)


def test_tiles_that_are_read_from_the_file_are_those_of_the_volume_in_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = held(read_volume(path), plan())
    monkeypatch.setattr(training_volumes, "HELD", 0)
    volume = read_for_training(path)
    assert isinstance(volume, StoredVolume)
    assert_same(prepare_training(volume, Paint(annotation()), plan()), expected)


def test_only_the_box_of_a_tile_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume is longer than a tile, deformed, can reach."""
    volume = StoredVolume(OmeZarrSource(path))
    large = LargeVolume(LargeImage(volume, plan()), Paint(annotation()), (1.0, 1.0, 1.0))
    sides = list[int]()
    read = volume.source.read
    monkeypatch.setattr(volume.source, "read", lambda box: (sides.append(box[0].stop - box[0].start), read(box))[1])
    drawn(large, 10)
    assert len(sides) >= 6
    assert max(sides) < SHAPE[0]


def test_a_coarse_working_grid_of_a_large_file_is_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = plan((1e-3, 1e-3, 1e-3))
    whole = read_volume(path)
    expected, grid = prepare_image(whole, coarse)
    monkeypatch.setattr(training_volumes, "HELD", expected.nbytes)
    monkeypatch.setattr("lib.core.data.large_image.AT_ONCE", 50_000)
    volume = read_for_training(path)
    assert isinstance(volume, StoredVolume)
    found = prepared(volume, coarse)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    to_score = as_prepared(volume, found, coarse)
    assert isinstance(to_score, LargeImage)
    assert to_score.grid == grid
    torch.testing.assert_close(to_score[:, 3:9, 0:5, 2:8], expected[:, 3:9, 0:5, 2:8], atol=2e-6, rtol=0)
    assert isinstance(as_prepared(whole, expected, coarse), PreparedImage)


def test_a_chunk_that_is_damaged_later_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_volumes, "HELD", 0)
    large = prepare_training(read_for_training(path), Paint(annotation()), plan())
    chunk = path / "0/c/0/0/1/2"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(InputError, match=r"c/0/0/1/2: the chunk cannot be read"):
        drawn(large)


def test_a_large_file_with_a_damaged_chunk_is_refused_before_training(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_volumes, "HELD", 0)
    (path / "0/c/1/0/1/2").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"c/1/0/1/2: the chunk cannot be read"):
        read_for_training(path)
