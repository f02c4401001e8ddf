import math

import numpy as np
import pytest
import torch

from benchmarks import inference, ours
from benchmarks.data import CHANNELS, smooth_volume
from benchmarks.inference import SamePaddedUNet, run_monai, run_ours, run_paper_tiling, run_pytorch3dunet
from lib.core.network.unet import UNet

WIDTH = 2


def quiet(_: float) -> None:
    pass


def convolutions(network: torch.nn.Module) -> list[tuple[int, int]]:
    return [
        (module.in_channels, module.out_channels)
        for module in network.modules()
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size == (3, 3, 3)
    ]


def test_our_tiling_segments_like_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the tiles on the lattice of 8 voxels: the first, and the third, which is 88 voxels further on. In the
    second, 44 voxels further on, the poolings see other pairs. Both mirror sizes that are 1 (mod 4) alike."""
    monkeypatch.setattr(ours, "half_precision_of", lambda _: torch.float32)
    image = smooth_volume((100, 41, 21))
    labels, part = run_paper_tiling(image, width=WIDTH)(quiet)
    expected = run_ours(image, memory=1e9, width=WIDTH)(quiet)
    assert part == 1
    assert len(np.unique(expected[:44])) > 1
    for on_lattice in (slice(0, 44), slice(88, None)):
        assert np.mean(labels[on_lattice] == expected[on_lattice]) > 0.9999


def test_timing_some_of_the_papers_tiles_records_their_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (90, 30, 30)
    labels, part = run_paper_tiling(smooth_volume(shape), tiles=2, width=WIDTH)(quiet)
    assert part == 2 / math.prod(-(-size // output) for size, output in zip(shape, (44, 44, 28), strict=True))
    assert labels.shape == shape


def test_same_padded_network_is_the_valid_one_away_from_the_border() -> None:
    """The valid network pools the same pairs as the padded one if its input starts at 2 (mod 8)."""
    valid = ours.paper_network(WIDTH)
    padded = SamePaddedUNet(ours.paper_network(WIDTH))
    image = torch.rand(1, CHANNELS, 144, 136, 144)
    with torch.no_grad():
        inner = valid(image[:, :, 2:134, 2:126, 2:134])
        whole = padded(image)
    assert whole.shape[2:] == image.shape[2:]
    assert inner.std() > 0.01
    rounding = 1e-5 * float(inner.abs().max())
    torch.testing.assert_close(whole[:, :, 46:90, 46:82, 46:90], inner, atol=rounding, rtol=0)


def test_monai_segments_the_whole_volume() -> None:
    reported: list[float] = []
    labels = run_monai(smooth_volume((140, 30, 20)), width=WIDTH)(reported.append)
    assert labels.shape == (140, 30, 20)
    assert reported == [0.5, 1.0]


def test_pytorch3dunet_segments_the_whole_volume_with_the_same_feature_maps() -> None:
    pytest.importorskip("pytorch3dunet")
    assert convolutions(inference.pytorch3dunet_network(32)) == convolutions(UNet(CHANNELS, 3, 32))
    reported: list[float] = []
    image = smooth_volume((76, 68, 64))
    labels = run_pytorch3dunet(image, width=WIDTH)(reported.append)
    assert labels.shape == (76, 68, 64)
    assert reported == [0.5, 1.0]
