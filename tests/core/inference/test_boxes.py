"""Volumes that stay in their files are segmented box by box, with the labels of the whole."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from devices import on_each_device
from lib.core.data.large_image import LargeImage
from lib.core.device.machine import Machine
from lib.core.inference import large, tiling
from lib.core.inference import segmenter as module
from lib.core.inference.segmenter import Segmenter
from lib.core.inference.tiling import Rows
from lib.core.labels import LabelScheme
from lib.core.model.model import build_network
from lib.core.network.batch_norm import Statistics
from lib.core.network.unet import UNet
from lib.core.plan.plan import Plan
from lib.core.volumes.boxes import boxes
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume
from lib.core.volumes.stored_volume import StoredVolume
from ome_zarr_files import save

pytest.importorskip("zarr", reason="zarr needs Python 3.11")
pytestmark = pytest.mark.slow

PLAN = Plan(
    LabelScheme(("ball", "shell"), "outside"), 1, None, width=2, tile=(132, 132, 116), test_tile=(108, 108, 100)
)
SHAPE = (50, 30, 21)


def network() -> UNet:
    torch.manual_seed(1)
    net = build_network(PLAN).eval()
    torch.nn.init.normal_(net.classify.weight, std=5)
    return net


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Voxels of 1 mm. A corner wasn't recorded."""
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    array[40:, :9, :9] = np.nan
    return save(tmp_path / "a.zarr", [array.T], "zyx", "0.5", [(1000, 1000, 1000)], chunks=(16, 16, 16))


@on_each_device
@pytest.mark.parametrize(
    ("statistics", "spacing"),
    [
        ("running", None),
        ("running", (2.0, 1.5, 1.0)),
        ("running", (0.8, 1.0, 3.0)),
        ("tile", None),
        ("mixed", None),
        ("mixed", (2.0, 1.5, 1.0)),
    ],
)
def test_boxes_get_the_labels_of_the_whole(
    path: Path, statistics: Statistics, spacing: tuple[float, ...] | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "ROWS", 16)
    plan = replace(PLAN, spacing=spacing, statistics=statistics)
    segmenter, machine = Segmenter(network(), plan), Machine(device, 10**9)
    volume = read_volume(path)
    expected = segmenter.segment(volume, machine)
    assert len(np.unique(expected)) > 1
    assert volume.outside is not None
    found = np.full(SHAPE, 255, np.uint8)
    segmenter.segment_boxes(
        LargeImage(StoredVolume(OmeZarrSource(path)), plan), boxes(SHAPE, (26, 30, 21)), machine, found.__setitem__
    )
    # Where two classes are equally probable, rounding decides.
    assert np.mean(found != expected) < 1e-3
    assert (found[volume.outside] == 0).all()


def test_boxes_get_the_mean_entropy_of_the_whole(path: Path) -> None:
    plan = replace(PLAN, statistics="running")
    segmenter, machine, found = Segmenter(network(), plan), Machine("cpu", 10**9), list[float]()
    _, entropy = segmenter.segment_with_entropy(read_volume(path), machine)
    parts = list(boxes(SHAPE, (20, 30, 21)))
    segmenter.entropy_of_boxes(
        LargeImage(StoredVolume(OmeZarrSource(path)), plan), parts, machine, lambda _, mean: found.append(mean)
    )
    expected = [entropy[part].mean() for part in parts]
    assert np.ptp(expected) > 1
    # A corner of the last box wasn't recorded.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.05 * expected[-1])
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-3)


def test_if_memory_is_short_the_boxes_that_are_done_are_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, statistics="running")
    segmenter, image = Segmenter(network(), plan), LargeImage(StoredVolume(OmeZarrSource(path)), plan)
    parts = list(boxes(SHAPE, (26, 30, 21)))
    tried, done = [], []
    segmented = module.labels_in_box

    def scarce(*arguments):  # type: ignore[no-untyped-def]
        tried.append(arguments[2])
        if len(tried) == 2:
            raise MemoryError
        return segmented(*arguments)

    monkeypatch.setattr(module, "labels_in_box", scarce)
    segmenter.segment_boxes(image, parts, Machine("cpu", 10**9), lambda box, _: done.append(box))
    assert done == parts
    assert tried == [*parts[:2], *parts[1:]]


def test_rows_are_read_once_when_tiles_go_from_one_end_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "ROWS", 8)
    read: list[slice] = []

    class Recorded:
        def __init__(self, voxels: torch.Tensor) -> None:
            self.voxels, self.shape = voxels, voxels.shape

        def __getitem__(self, box: tuple[slice, ...]) -> torch.Tensor:
            read.append(box[1])
            return self.voxels[box]

    voxels = torch.rand(2, 50, 20, 9)
    rows = Rows(Recorded(voxels), (slice(3, 15), slice(0, 9)))
    for start in range(0, 48, 6):
        box = (slice(None), slice(start, start + 7), slice(4, 15), slice(2, 7))
        torch.testing.assert_close(rows[box], voxels[box], atol=0, rtol=0)
    assert read == [slice(start, min(start + 8, 50)) for start in range(0, 50, 8)]
    assert len(rows._blocks) <= 2


@pytest.mark.parametrize("statistics", ["running", "tile", "mixed", "volume"])
def test_boxes_have_the_same_labels_wherever_they_are_segmented(path: Path, statistics: Statistics) -> None:
    """As if each box was segmented by another process, which knows the statistics of the whole."""
    plan, machine = replace(PLAN, statistics=statistics), Machine("cpu", 2 * 10**9)
    whole, found = Segmenter(network(), plan), np.full(SHAPE, 255, np.uint8)
    volume = StoredVolume(OmeZarrSource(path))
    image = LargeImage(volume, plan)
    statistics_of_image = whole.settled(image, machine)
    for box in boxes(SHAPE, (26, 30, 21)):
        again = LargeImage(StoredVolume(OmeZarrSource(path), surveyed=volume.surveyed), plan)
        segmenter = Segmenter(network(), plan).by_statistics(statistics_of_image)
        segmenter.segment_boxes(again, [box], machine, found.__setitem__)
    expected = np.full(SHAPE, 255, np.uint8)
    whole.segment_boxes(image, boxes(SHAPE, (26, 30, 21)), machine, expected.__setitem__)
    np.testing.assert_array_equal(found, expected)


def test_several_workers_get_boxes_of_equal_size_at_the_same_time() -> None:
    source = SimpleNamespace(geometry=SimpleNamespace(shape=(512, 512, 512), spacing=(1.0, 1.0, 1.0)))
    segmenter, machine = Segmenter(network(), PLAN), Machine("cpu", module.MEMORY)
    # Each needs voxels around it, so that 8 cubes are cheaper than 8 slabs, and than more boxes.
    for workers, sides in ((8, (256, 256, 256)), (64, (128, 128, 128))):
        assert large.choose_sides(segmenter, source, machine, large.MOST, workers) == sides
