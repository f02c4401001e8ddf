"""The frozen network computes what *Run*'s evaluators compute, for images of any size."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from lib.core.errors import InputError
from lib.core.export.frozen import FrozenNetwork
from lib.core.export.onnx_model import save_onnx
from lib.core.export.preprocessing import piece_side, preprocessing
from lib.core.export.segmentation import Segmentation
from lib.core.labels import LabelScheme
from lib.core.model.model import build_network
from lib.core.plan.plan import Plan
from mirrored import mirrored_tile

SHAPES = [(1, 5, 9), (20, 30, 25), (2, 3, 52), (89, 4, 90)]


def plan_of(network: str = "unet", **options: object) -> Plan:
    scheme = LabelScheme(("ball", "shell"), "outside")
    return Plan(scheme, 2, None, 2, (132, 132, 116), statistics="running", network=network, **options)


def network_of(plan: Plan) -> nn.Module:
    """Return a network whose batch normalisation does something."""
    torch.manual_seed(1)
    network = build_network(plan).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    return network


def in_one_pass(network: nn.Module, image: torch.Tensor) -> np.ndarray:
    """The probabilities that the plain network gives the image, mirrored by numpy."""
    with torch.no_grad():
        found = network(mirrored_tile(image)).softmax(dim=1)[0]
    x, y, z = image.shape[1:]
    return found[:, :x, :y, :z].numpy()


def whole(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The box that is the whole image."""
    return torch.zeros(3, dtype=torch.int64), torch.tensor(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("network", "batch_norm"), [("unet", True), ("unet", False), ("residual", True)])
def test_any_size(network: str, batch_norm: bool, shape: tuple[int, ...]) -> None:
    plan = plan_of(network, batch_norm=batch_norm)
    trained, image = network_of(plan), torch.rand(2, *shape)
    expected = in_one_pass(trained, image)
    assert expected.std() > 0.01
    frozen = FrozenNetwork(trained, plan.architecture.tiles)
    np.testing.assert_allclose(frozen(image[None], *whole(shape))[0].numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("network", ["unet", "residual"])
def test_as_onnx_and_as_torchscript(network: str, tmp_path) -> None:
    """The graph isn't tied to the sizes by which it was made."""
    plan = plan_of(network)
    trained = network_of(plan)
    frozen = FrozenNetwork(trained, plan.architecture.tiles)
    save_onnx(tmp_path / "model.onnx", frozen, channels=2)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    script = torch.jit.script(frozen)
    for shape in SHAPES:
        image = torch.rand(2, *shape)
        expected = in_one_pass(trained, image)
        first, size = whole(shape)
        (found,) = session.run(None, {"image": image[None].numpy(), "first": first.numpy(), "size": size.numpy()})
        np.testing.assert_allclose(found[0], expected, atol=2e-4)
        np.testing.assert_allclose(script(image[None], first, size)[0].numpy(), expected, atol=2e-4)


@pytest.mark.parametrize("shape", [(73, 60, 9), (131, 17, 41)])
def test_pieces_join_without_seams(shape: tuple[int, ...]) -> None:
    plan = plan_of()
    frozen = FrozenNetwork(network_of(plan), plan.architecture.tiles)
    image = torch.rand(1, 2, *shape)
    in_pieces = Segmentation(frozen, {**preprocessing(plan), "piece": 24})(image)
    np.testing.assert_allclose(in_pieces.numpy(), frozen(image, *whole(shape)).numpy(), atol=2e-4)


@pytest.mark.parametrize("width", [1, 8, 32, 128])
def test_pieces_start_on_the_lattice(width: int) -> None:
    tiles = plan_of().architecture.tiles
    side = piece_side(width, tiles)
    assert side % tiles.lattice == 0
    assert side >= tiles.lattice


def test_another_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential can't be exported"):
        FrozenNetwork(nn.Sequential(), plan_of().architecture.tiles)
