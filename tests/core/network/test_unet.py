import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.data.training_volumes import prepare_training
from lib.core.device.machine import Machine
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.network.architectures import PAPER
from lib.core.network.unet import UNet
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.training.learner import Learner
from lib.core.volumes.volume import Volume


def parameters_without_normalisation(network: nn.Module) -> int:
    """Count parameters as the paper must have done, without scale and shift of batch normalisation."""
    normalised = {
        id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for p in m.parameters()
    }
    return sum(p.numel() for p in network.parameters() if id(p) not in normalised)


def test_the_papers_network_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        network = UNet(channels=3, classes=3)
    assert parameters_without_normalisation(network) == 19_069_955
    assert sum(p.numel() for p in network.parameters()) == 19_069_955 + 4672


def test_the_papers_tile_gives_the_papers_output() -> None:
    with torch.device("meta"):
        logits = UNet(channels=3, classes=3)(torch.zeros(1, 3, 132, 132, 116))
    assert logits.shape == (1, 3, 44, 44, 28)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(
    ("dims", "channels", "classes", "tile"),
    [(3, 1, 2, (92, 100, 108)), (3, 4, 5, (100, 92, 92)), (2, 2, 3, (92, 188)), (2, 1, 2, (100, 100))],
)
def test_shapes(dims: int, channels: int, classes: int, tile: tuple[int, ...], batch_norm: bool) -> None:
    network = UNet(channels, classes, width=2, dims=dims, batch_norm=batch_norm)
    logits = network(torch.rand(1, channels, *tile))
    assert logits.shape == (1, classes, *PAPER.tiles.output_shape(tile))
    assert batch_norm == any("Norm" in type(m).__name__ for m in network.modules())


def test_features_keep_their_variance_without_normalisation() -> None:
    """Features of an untrained network without batch normalisation neither explode nor vanish."""
    torch.manual_seed(0)
    network = UNet(3, 3, width=8, batch_norm=False)
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 100, 100, 100))
    assert 0.1 < float(logits.std()) < 10


def test_pooling_keeps_half_precision() -> None:
    """A CPU's autocast would make it float32; the maxima are those of a plain reduction."""
    features = torch.randn(2, 3, 4, 6, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = UNet(1, 2, width=1).pool(features)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, features.view(2, 3, 2, 2, 3, 2, 4, 2).amax((3, 5, 7)), rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_untrained_up_convolution_is_nearest_neighbour_up_sampling(dims: int) -> None:
    """Otherwise each of eight voxels starts with its own weights, and regions unlike those in training show dots."""
    torch.manual_seed(0)
    network = UNet(1, 2, width=2, dims=dims)
    for up in network.up:
        features = torch.randn(1, up.in_channels, *(4,) * dims)
        with torch.no_grad():
            found = up(features)
            coarse = found[(..., *[slice(None, None, 2)] * dims)]
            expected = nn.functional.interpolate(coarse, scale_factor=2, mode="nearest")
        torch.testing.assert_close(found, expected)
        # The features keep their variance.
        assert 0.7 < float(found.std()) < 1.4


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_early_in_training_there_is_no_lattice_of_dots_where_an_image_is_constant(seed: int) -> None:
    """Voxels without an equal neighbour, by position modulo two: an up-convolution has weights for each position."""
    shape, scheme = (56, 40, 40), LabelScheme(("ball",), "outside")
    image = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 1.5)
    dense = np.where(image > np.quantile(image, 0.8), 1, 2).astype(np.uint8)
    image[28:] = image.min()
    annotation = keep_slices(dense, [AnnotatedSlice(0, 10), AnnotatedSlice(1, 20), AnnotatedSlice(2, 15)])
    annotation[29:] = 0
    volume = Volume(image[None].astype(np.float32), np.eye(4))
    plan = replace(make_plan([volume], scheme, PlanOptions(width=4), "cpu"), half_precision=False)
    with Learner(plan, [prepare_training(volume, Paint(annotation), plan)], "cpu", seed) as learner:
        learner.train(range(12), lambda: 0.3)
        labels = Segmenter(learner.result(), plan).segment(volume, Machine("cpu", 10**9))
    alone = np.zeros(shape, bool)
    for value in (0, 1):
        of_class = labels == value
        neighbours = ndimage.convolve(of_class.astype(np.uint8), np.ones((3, 3, 3), np.uint8), mode="constant")
        alone |= of_class & (neighbours == 1)
    phases = [alone[x::2, y::2, z::2].mean() for x, y, z in itertools.product((0, 1), repeat=3)]
    # With separate initial weights, one position in eight had 0.01 to 0.02; with equal ones, all together have 0.0006.
    assert max(phases) < 0.003
