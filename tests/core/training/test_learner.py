"""A learner's steps compared with plain torch, and what it reports about them."""

import math
from concurrent.futures import Future
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from devices import on_each_device
from lib.core.annotation.paint import Paint
from lib.core.data.preparation import PreparedImage
from lib.core.data.training_volumes import prepare_training
from lib.core.device import precision
from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import IGNORED, LabelScheme
from lib.core.network.batch_norm import Statistics
from lib.core.network.unet import UNet
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.training.learner import Learner
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("ball",), "outside")
SHAPE = (40, 20, 12)


def learner(device: str = "cpu", **changes: object) -> Learner:
    generator = np.random.default_rng(0)
    volume = Volume(generator.random((1, *SHAPE)).astype(np.float32), np.eye(4))
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[:, :, 5] = 2
    annotation[10:14, 5:12, 5] = 1
    plan = replace(make_plan([volume], SCHEME, PlanOptions(width=2), "cpu"), half_precision=False, **changes)  # type: ignore[arg-type]
    return Learner(plan, [prepare_training(volume, Paint(annotation), plan)], device, seed=3)


@on_each_device
def test_steps_are_those_of_plain_torch(device: str) -> None:
    """Weighted cross-entropy on labelled voxels, short gradients, Nesterov momentum, a falling rate, no averaging."""
    ours = learner(device, averaging=0.0, loss="cross_entropy")
    torch.manual_seed(3)
    # Sums in another order round differently, which changes ever more. So the memory layout is the same, and steps are
    # few: the first gradient differs by 2e-6, the second by 4e-3. A step is 2e-2 long.
    network = UNet(1, 2, width=2, padded=True).to(device, memory_format=torch.channels_last_3d).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    parts = (0.0, 0.5)
    for step, part in enumerate(parts):
        image, targets = ours.sampler.draw(np.random.default_rng((3, step)))
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - part) ** 0.9
        logits = network(image[None].contiguous(memory_format=torch.channels_last_3d))[0]
        labelled = targets != IGNORED
        loss = nn.functional.cross_entropy(logits[:, labelled].T, targets[labelled], weight=ours.weights)
        optimiser.zero_grad()
        loss.backward()
        length = math.sqrt(sum(float(parameter.grad.square().sum()) for parameter in network.parameters()))
        for parameter in network.parameters():
            parameter.grad *= min(1, 5 / length)
        optimiser.step()
        made = ours.train(range(step, step + 1), lambda part=part: part)  # type: ignore[misc]
        assert made.loss == pytest.approx(float(loss.detach()), rel=5e-4)
        assert made.labelled == int(labelled.sum())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(ours.network.state_dict()[name], value, rtol=1e-3, atol=2e-3, msg=name)
    result = ours.result()
    for name, value in network.named_parameters():
        torch.testing.assert_close(result.get_parameter(name), value, rtol=1e-3, atol=2e-3, msg=name)


def test_the_result_averages_the_weights_of_the_last_steps() -> None:
    ours = learner(averaging=0.9)
    expected = ours.network.classify.weight.detach().clone()
    for step in range(4):
        ours.train(range(step, step + 1), lambda: 0.0)
        # The first weights are taken as they are; the next ones get more weight than later ones.
        kept = 0.0 if step == 0 else min(0.9, (step + 1) / (step + 10))
        expected = kept * expected + (1 - kept) * ours.network.classify.weight.detach()
    torch.testing.assert_close(ours.result().classify.weight, expected)


def test_training_ends_with_the_time_but_makes_at_least_one_step() -> None:
    ours = learner()
    assert ours.train(range(5), lambda: 1.0).labelled == ours.train(range(1), lambda: 0.0).labelled


def test_time_spent_waiting_for_tiles_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step takes 5 seconds, and each tile arrives 2 seconds after it was asked for."""
    ours = learner()
    now = 0.0

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds

    take = Future.result

    def taken(future: "Future[object]", timeout: float | None = None) -> object:
        later(2)
        return take(future, timeout)

    monkeypatch.setattr(Future, "result", taken)
    monkeypatch.setattr("time.monotonic", lambda: now)
    ours.network.register_forward_hook(lambda *_: later(5))
    made = ours.train(range(3), lambda: 0.0)
    assert (made.waited, made.seconds) == (3 * 2, 3 * (2 + 5))


def test_a_run_continues_in_the_precision_that_it_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that supports it."""
    monkeypatch.setattr(precision, "half_precision_of", lambda _: torch.bfloat16)
    first = learner()
    first.precision = torch.bfloat16
    second = learner()
    second.load(first.state(), with_momentum=False)
    assert second.precision == torch.float32
    second.load(first.state(), with_momentum=True)
    assert second.precision == torch.bfloat16


def test_drawing_weights_does_not_change_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with learner() as ours:
        ours.result()
        assert torch.equal(torch.rand(3), expected)


def test_out_of_memory_training_continues_with_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    with learner() as ours:
        most = ours.sampler.tile_voxels - 1
        forward = ours.network.forward

        def limited(image: torch.Tensor) -> torch.Tensor:
            if image[0, 0].numel() > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(image)

        monkeypatch.setattr(ours.network, "forward", limited)
        before = ours.plan.tile
        made = ours.train(range(2), lambda: 0.0)
        assert math.isfinite(made.loss)
        assert made.labelled > 0
        assert math.prod(ours.plan.tile) < math.prod(before)
        assert ours.sampler.tile_voxels <= most
        most = 1
        with pytest.raises(InputError, match="memory on cpu doesn't suffice even for the smallest tile"):
            ours.train(range(2, 3), lambda: 0.0)


def test_out_of_memory_while_drawing_a_tile_training_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    with learner() as ours:
        draw, before = ours.sampler.draw, ours.plan.tile

        def limited(generator: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            if ours.plan.tile == before:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return draw(generator)

        monkeypatch.setattr(ours.sampler, "draw", limited)
        assert math.isfinite(ours.train(range(2), lambda: 0.0).loss)
        assert math.prod(ours.plan.tile) < math.prod(before)


def test_a_step_without_a_finite_gradient_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with learner(averaging=0.5) as ours:
        ours.train(range(1), lambda: 0.0)
        before = {name: value.clone() for name, value in ours.network.named_parameters()}
        averaged = ours.averaged.module.classify.weight.clone()
        hook = ours.network.classify.register_forward_hook(lambda _, __, logits: logits * math.inf)
        made = ours.train(range(1, 3), lambda: 0.0)
        hook.remove()
        assert (made.left_out, made.labelled) == (2, 0)
        assert math.isnan(made.loss)
        for name, value in ours.network.named_parameters():
            assert torch.equal(value, before[name])
        assert torch.equal(ours.averaged.module.classify.weight, averaged)
        assert math.isfinite(ours.train(range(3, 4), lambda: 0.0).loss)


def strange_images() -> dict[str, np.ndarray]:
    """Images (channels, *SHAPE) that are difficult to normalise: constant wholly, mostly or in a channel."""
    generator = np.random.default_rng(1)
    noise = generator.random((1, *SHAPE))
    masked = noise.copy()
    masked[:, 12:] = 0
    bright = np.zeros((1, *SHAPE))
    bright[0, 20, 10, 5] = 1e6
    return {
        "all equal": np.full((1, *SHAPE), 7.0),
        "mostly constant": masked,
        "constant but for a corner": np.where(np.indices(SHAPE).sum(axis=0) < 6, noise, -1000),
        "one bright voxel": bright,
        "two values": (noise > 0.5).astype(float),
        "tiny": noise * 1e-30,
        "huge": noise * 1e30,
        "one channel constant": np.concatenate([noise, np.full((1, *SHAPE), 3.0)]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("half", sorted({False, precision.half_precision_of("cpu") == torch.bfloat16}))
@pytest.mark.parametrize("kind", strange_images())
def test_no_finite_image_ends_a_training(kind: str, half: bool) -> None:
    """All weights stay finite, and so do the network's outputs with any statistics."""
    volume = Volume(strange_images()[kind].astype(np.float32), np.eye(4))
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[:, :, 5] = annotation[30] = 2
    annotation[10:14, 5:12, 5] = 1
    options = PlanOptions(width=2)
    plan = replace(make_plan([volume], SCHEME, options, "cpu"), half_precision=half, learning_rate=0.2)
    with Learner(plan, [prepare_training(volume, Paint(annotation), plan)], "cpu", seed=3) as ours:
        ours.train(range(12), lambda: 0.0)
        result = ours.result()
        assert all(torch.isfinite(value).all() for value in ours.network.state_dict().values())
    for statistics in get_args(Statistics):
        segmenter = Segmenter(result, replace(plan, statistics=statistics))
        image = PreparedImage.of(volume, plan).image
        tiling = segmenter._tiling(image, Machine("cpu", 10**9))
        assert torch.isfinite(tiling.probabilities()).all()
