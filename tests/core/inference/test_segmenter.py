"""From a volume to its labels: memory, precision, the working grid."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from devices import needs_gpu, on_each_device
from lib.core.data.preparation import PreparedImage, prepare_image
from lib.core.device.machine import Machine, is_out_of_memory
from lib.core.errors import InputError
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.model.model import build_network
from lib.core.network.batch_norm import Statistics
from lib.core.network.unet import UNet
from lib.core.plan.plan import Plan
from lib.core.volumes.volume import Volume
from mirrored import mirrored_tile
from project import APP

PLAN = Plan(LabelScheme(("ball", "shell"), "outside"), 1, None, width=2, tile=(132, 132, 116), statistics="running")
SHAPE = (36, 30, 21)


def volume(channels: int = 1) -> Volume:
    return Volume(np.random.default_rng(0).normal(size=(channels, *SHAPE)).astype(np.float32), np.eye(4))


def network() -> UNet:
    torch.manual_seed(1)
    net = build_network(PLAN).eval()
    torch.nn.init.normal_(net.classify.weight, std=5)
    return net


def in_one_pass(net: UNet) -> np.ndarray:
    """The labels that the plain network gives to the whole mirrored volume."""
    image, _ = prepare_image(volume(), PLAN)
    with torch.no_grad():
        logits = net(mirrored_tile(image))[0]
    return logits.argmax(dim=0).numpy()[: SHAPE[0], : SHAPE[1], : SHAPE[2]]  # type: ignore[no-any-return]


@on_each_device
@pytest.mark.parametrize("memory", [1, 260_000_000, 10**12])
def test_labels_do_not_depend_on_the_memory(memory: int, device: str) -> None:
    """With frozen statistics; with the least memory the volume is cut into the smallest tiles."""
    found = Segmenter(network(), PLAN).segment(volume(), Machine(device, memory))
    expected = in_one_pass(network())
    assert len(np.unique(expected)) > 1
    # Where two classes are equally probable, rounding decides.
    assert np.mean(found != expected) < 1e-3


@on_each_device
@pytest.mark.parametrize("statistics", ["tile", "volume", "mixed"])
def test_statistics_do_not_depend_on_the_memory(statistics: Statistics, device: str) -> None:
    """Statistics of a volume, and of the tiles into which it is cut. The plan sets these tiles, not the memory."""
    plan = replace(PLAN, statistics=statistics, test_tile=(108, 108, 100))
    little, much = (Segmenter(network(), plan).segment(volume(), Machine(device, memory)) for memory in (1, 4 * 10**9))
    assert len(np.unique(much)) > 1
    assert np.mean(little != much) < 1e-3


@on_each_device
@pytest.mark.parametrize("spacing", [None, (2.0, 1.5, 1.0), (0.6, 1.0, 3.0)])
@pytest.mark.parametrize("statistics", ["tile", "mixed"])
def test_voxels_segmented_alone_get_the_labels_of_the_whole(
    spacing: tuple[float, ...] | None, statistics: Statistics, device: str
) -> None:
    """A slice, scattered voxels and a single one of a volume that is longer than a tile."""
    plan = replace(PLAN, spacing=spacing, statistics=statistics, test_tile=(108, 108, 100))
    long = Volume(np.random.default_rng(0).normal(size=(1, 70, 20, 12)).astype(np.float32), np.eye(4))
    segmenter, machine = Segmenter(network(), plan), Machine(device, 10**9)
    whole = segmenter.segment(long, machine)
    slice_across_x = np.nonzero(np.arange(70)[:, None, None] == np.full((70, 20, 12), 33))
    scattered = (np.array([50, 50, 53, 61, 69, 69]), np.array([19, 1, 12, 12, 0, 19]), np.array([4, 4, 4, 4, 4, 11]))
    for place in (slice_across_x, scattered, (np.array([0]), np.array([7]), np.array([11]))):
        (found,) = segmenter.segment_at(PreparedImage.of(long, plan), [place], machine)
        # Where two classes are equally probable, rounding decides.
        assert np.mean(found != whole[place]) < 0.01
    assert len(np.unique(whole[slice_across_x])) > 1


def test_voxels_outside_of_what_was_recorded_are_background() -> None:
    outside = np.zeros(SHAPE, bool)
    outside[:18] = True
    masked = replace(volume(), outside=outside)
    segmenter, machine = Segmenter(network(), PLAN), Machine("cpu", 10**9)
    labels, entropy = segmenter.segment_with_entropy(masked, machine)
    assert not labels[outside].any()
    assert not entropy[outside].any()
    assert labels[~outside].any()
    np.testing.assert_array_equal(segmenter.segment(masked, machine), labels)
    everywhere = np.nonzero(np.ones(SHAPE))
    (found,) = segmenter.segment_at(PreparedImage.of(masked, PLAN), [everywhere], machine)
    np.testing.assert_array_equal(found, labels[everywhere])


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 channel\(s\).* trained on 1"):
        Segmenter(network(), PLAN).segment(volume(channels=2), Machine("cpu", 10**9))


SHORT = """
import logging, resource, sys
import numpy as np, torch
from lib.core.labels import LabelScheme
from lib.core.device.machine import Machine
from lib.core.model.model import build_network
from lib.core.plan.plan import Plan
from lib.core.inference.segmenter import Segmenter
from lib.core.volumes.volume import Volume
logging.basicConfig(stream=sys.stdout)
torch.manual_seed(0)
plan = Plan(LabelScheme(("ball",), "outside"), 1, None, 8, (132, 132, 116), statistics="running")
volume = Volume(np.random.default_rng(0).normal(size=(1, 4, 200, 200)).astype(np.float32), np.eye(4))
segmenter = Segmenter(build_network(plan), plan)
torch.ones(999, 999) @ torch.ones(999, 999)
used = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]), -1))
print(segmenter.segment(volume, Machine("cpu", 2 * 10**9)).shape)
"""


def short_of_memory(allowed: int) -> str:
    # Each thread's own arena of the C library would take address space, and how much varies from run to run.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", SHORT, str(allowed)]
    done = subprocess.run(command, cwd=APP, env=environment, text=True, capture_output=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_out_of_memory_smaller_tiles_are_tried() -> None:
    """In a process that gets less memory than it is told it has."""
    said = short_of_memory(380_000_000)
    assert "out of memory on cpu with tiles for 2.0 GB" in said
    assert "(4, 200, 200)" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_too_little_memory_for_the_smallest_tile_is_reported() -> None:
    said = short_of_memory(40_000_000)
    assert "InputError" in said
    assert "memory doesn't suffice" in said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_mean_that_memory_is_short(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def test_on_another_working_grid_labels_come_back_on_the_volumes_own() -> None:
    plan = replace(PLAN, spacing=(2.0, 1.5, 1.0))
    assert Segmenter(network(), plan).segment(volume(), Machine("cpu", 10**9)).shape == SHAPE


@on_each_device
@pytest.mark.parametrize("spacing", [None, (2.0, 1.5, 1.0)])
def test_entropy_comes_with_the_same_labels(spacing: tuple[float, ...] | None, device: str) -> None:
    segmenter = Segmenter(network(), replace(PLAN, spacing=spacing))
    labels, entropy = segmenter.segment_with_entropy(volume(), Machine(device, 10**9))
    np.testing.assert_array_equal(labels, segmenter.segment(volume(), Machine(device, 10**9)))
    assert entropy.shape == SHAPE
    assert entropy.dtype == np.uint8
    assert entropy.std() > 1


def wide_volume() -> tuple[Segmenter, Volume]:
    plan = replace(PLAN, width=16, statistics="mixed")
    torch.manual_seed(0)
    image = np.random.default_rng(0).normal(size=(1, 200, 180, 160)).astype(np.float32)
    return Segmenter(build_network(plan).eval(), plan), Volume(image, np.eye(4))


@needs_gpu
@pytest.mark.parametrize("memory", [1_500_000_000, 4_000_000_000])
def test_a_gpu_takes_no_more_memory_than_it_may(memory: int) -> None:
    segmenter, large = wide_volume()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    segmenter.segment(large, Machine("cuda", memory))
    assert torch.cuda.max_memory_allocated() < memory


@needs_gpu
def test_what_has_no_room_on_a_gpu_is_segmented_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    segmenter = Segmenter(network(), PLAN)
    expected = segmenter.segment(volume(), Machine("cpu", 10**9))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        found = segmenter.segment(volume(), Machine("cuda", 10**9, fallback=Machine("cpu", 10**9)))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory on cuda" in caplog.text
    np.testing.assert_array_equal(found, expected)
