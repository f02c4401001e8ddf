"""Each seam: a variant in this file, registered by one line, trains and segments without any other change."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import IGNORED, LabelScheme
from lib.core.loss.losses import LOSSES
from lib.core.model.folder import ModelFolder
from lib.core.network.architecture import Architecture
from lib.core.network.architectures import ARCHITECTURES, PAPER
from lib.core.network.crop import centre_crop
from lib.core.network.evaluator import Evaluator, WholeTiles
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.run import train
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("ball",), "outside")
MACHINE = Machine("cpu", 10**9)


def case() -> TrainingCase:
    """A bright ball in the dark, four slices of it annotated."""
    x, y, z = np.meshgrid(*(np.arange(n) - n / 2 for n in (32, 28, 20)), indexing="ij")
    ball = x**2 + y**2 + z**2 < 64
    image = ball + np.random.default_rng(0).normal(0, 0.1, ball.shape)
    annotation = np.zeros(ball.shape, np.uint8)
    for k in (5, 9, 11, 14):
        annotation[:, :, k] = np.where(ball[:, :, k], 1, 2)
    return TrainingCase("ball", Volume(image[None].astype(np.float32), np.eye(4)), annotation)


def trained(folder: Path, options: PlanOptions, epochs: int = 2) -> tuple[ModelFolder, np.ndarray]:
    """Train, and segment the volume by what was published."""
    models, one = ModelFolder(folder), case()
    train([one], SCHEME, models, TrainingOptions(max_epochs=epochs), options, MACHINE)
    model = models.load(SCHEME)
    return models, Segmenter.of(model).segment(one.volume, MACHINE)


class Shallow(nn.Module):
    """Two resolution steps of one convolution each, and no batch normalisation."""

    def __init__(self, channels: int, classes: int, width: int, dims: int, padded: bool) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2)
        self.analysis = nn.ModuleList(
            convolution(before, after, 3, padding=int(padded)) for before, after in ((channels, width), (width, width))
        )
        self.up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims](width, width, 2, 2)
        self.synthesis = nn.ModuleList([convolution(2 * width, width, 3)])
        self.classify = convolution(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = torch.relu(self.analysis[0](image))
        if fine.shape[2] % 2:
            raise InputError("odd")
        features = self.up(torch.relu(self.analysis[1](self.pool(fine))))
        features = torch.relu(self.synthesis[0](torch.cat([features, centre_crop(fine, features.shape[2:])], dim=1)))
        return self.classify(features)  # type: ignore[no-any-return]


class ShallowArchitecture(Architecture):
    name = "shallow"

    def build(
        self, channels: int, classes: int, width: int, dims: int = 3, batch_norm: bool = True, padded: bool = False
    ) -> nn.Module:
        return Shallow(channels, classes, width, dims, padded)


def test_another_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ARCHITECTURES, "shallow", ShallowArchitecture())
    tiles = ARCHITECTURES["shallow"].tiles
    assert (tiles.context, tiles.padded_context, tiles.lattice, tiles.smallest) == (4, 1, 2, 10)
    models, labels = trained(tmp_path, PlanOptions(width=4, network="shallow"), epochs=20)
    assert models.load(SCHEME).plan.network == "shallow"
    assert models.load(SCHEME).score > 0.8
    assert set(np.unique(labels)) == {0, 1}


def test_another_network_by_the_papers_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ARCHITECTURES, "shallow", ShallowArchitecture())
    models, _ = trained(tmp_path, PlanOptions(width=4, network="shallow", recipe="paper"), epochs=1)
    assert models.load(SCHEME).plan.context == 4


def test_residual_blocks_with_deep_supervision(tmp_path: Path) -> None:
    models, labels = trained(tmp_path, PlanOptions(width=2, network="residual"))
    assert models.load(SCHEME).plan.network == "residual"
    assert labels.shape == case().volume.shape
    torch.manual_seed(0)
    network = ARCHITECTURES["residual"].build(1, 2, width=2)
    tile = torch.rand(1, 1, 92, 92, 92)
    finest, *coarser = network.train()(tile)
    assert [each.shape for each in coarser] == [finest.shape] * 2
    # A coarse step's logits, enlarged: pairs of voxels are alike.
    assert torch.equal(coarser[0][..., 0::2], coarser[0][..., 1::2])
    with torch.no_grad():
        assert network.eval()(tile).shape == finest.shape


def test_another_network_is_not_continued(tmp_path: Path) -> None:
    trained(tmp_path, PlanOptions(width=2))
    reports = []
    options = PlanOptions(width=2, network="residual")
    train([case()], SCHEME, ModelFolder(tmp_path), TrainingOptions(1), options, MACHINE, reports.append)
    assert "started afresh" in reports[-1]["message"]


def test_another_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def squared(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        calls.append(weights.shape)
        labelled = targets != IGNORED
        wanted = nn.functional.one_hot(targets[labelled], logits.shape[1])
        return (logits.movedim(1, -1)[labelled].softmax(dim=1) - wanted).square().mean()

    monkeypatch.setitem(LOSSES, "squared", squared)
    models, _ = trained(tmp_path, PlanOptions(width=2, loss="squared"))
    assert calls[0] == (2,)
    assert models.load(SCHEME).plan.loss == "squared"


def test_dice_and_cross_entropy(tmp_path: Path) -> None:
    models, _ = trained(tmp_path, PlanOptions(width=2, loss="dice_cross_entropy"))
    assert models.load(SCHEME).plan.loss == "dice_cross_entropy"


class Brightness:
    """An evaluator without any network: class 1 where the image is bright."""

    def evaluate(self, image: Tensor, origin: Sequence[int], tile: Sequence[int]) -> Iterator[Tensor]:
        box = tuple(
            slice(start, min(start + size - 88, length))
            for start, size, length in zip(origin, tile, image.shape[1:], strict=True)
        )
        bright = image[0][box]
        yield torch.stack([0.5 - bright, bright - 0.5])

    def peak_memory(self, tile: Sequence[int]) -> int:
        return 1


def test_another_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluator(_network: nn.Module, _dtype: torch.dtype = torch.float32) -> Evaluator:
        return Brightness()

    monkeypatch.setattr(PAPER, "evaluator", evaluator)
    one = case()
    plan = replace(make_plan([one.volume], SCHEME, PlanOptions(width=2), "cpu"), statistics="running")
    labels = Segmenter(PAPER.build(1, 2, 2).eval(), plan).segment(one.volume, MACHINE)
    image = one.volume.array[0]
    low, high = np.percentile(image, (0.5, 99.5))
    clear = np.abs((image - low) / (high - low) - 0.5) > 0.01
    np.testing.assert_array_equal(labels[clear], (image > (low + high) / 2)[clear])


def test_whole_tiles_are_the_default_evaluator_and_agree_with_slabs() -> None:
    torch.manual_seed(0)
    network, image = PAPER.build(1, 3, 2).eval(), torch.rand(1, 20, 30, 12)
    tile = PAPER.tiles.covering(image.shape[1:])
    whole, slabs = WholeTiles(network, PAPER.tiles), PAPER.evaluator(network)
    assert isinstance(Architecture.evaluator(PAPER, network), WholeTiles)
    (expected,) = whole.evaluate(image, (0, 0, 0), tile)
    found = torch.cat(list(slabs.evaluate(image, (0, 0, 0), tile)), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("option", ["network", "loss"])
def test_what_does_not_exist_is_refused_by_name(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}: 'nope'; give one of"):
        PlanOptions(**{option: "nope"})  # type: ignore[arg-type]
