"""The network in training: stochastic gradient descent on one augmented tile at a time (section 3.2)."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .loss import class_weights, weighted_cross_entropy
from .model import build_network
from .network import UNet
from .normalisation import OF_TRAINING, by_average_statistics
from .plan import Plan
from .precision import choose_training_precision, half_precision
from .sampling import TileSampler, TrainingVolume
from .slabs import laid_out
from .tiles import CONTEXT

STATISTICS_TILES = 16
"""Tiles over which the statistics of the averaged weights are taken."""


@dataclass(frozen=True)
class Course:
    """What happened in some steps.

    Attributes:
        loss: mean over the steps.
        labelled: labelled voxels learnt from.
        seconds: they took.
        waited: seconds of these in which training waited for a tile to be drawn.
    """

    loss: float
    labelled: int
    seconds: float
    waited: float


class Learner:
    """A network, the running average of its weights, and what makes its steps.

    Args:
        plan: how to train.
        volumes: annotated and prepared; for the 2-D network, slices.
        device: ``cpu`` or ``cuda``.
        seed: of the weights, and of the tiles: each depends on this and its step's number alone.

    Raises:
        InputError: nothing is annotated.
    """

    def __init__(self, plan: Plan, volumes: Sequence[TrainingVolume], device: str, seed: int) -> None:
        self.plan, self.device, self.seed = plan, device, seed
        counts = np.zeros(len(plan.scheme.classes), dtype=np.int64)
        for volume in volumes:
            targets = plan.scheme.targets(volume.annotation.numpy())
            counts += np.bincount(targets[targets >= 0], minlength=len(counts))
        placed = [
            replace(volume, image=volume.image.to(device), annotation=volume.annotation.to(device))
            for volume in volumes
        ]
        self.sampler = TileSampler(placed, plan.scheme, plan.tile, plan.augmentation, plan.context)
        self.weights = torch.tensor(class_weights(counts.tolist(), plan.class_balance), device=device)
        torch.manual_seed(seed)
        self.network = build_network(plan).to(device)
        if plan.dims == 3:
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.precision = torch.float32
        if plan.half_precision:
            self.precision = choose_training_precision(
                plan.channels, len(plan.scheme.classes), plan.width, plan.dims, device
            )
        self.averaged = AveragedModel(self.network, multi_avg_fn=_average(plan.averaging))
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=plan.learning_rate, momentum=plan.momentum, nesterov=True
        )
        self._tiles = _DrawnAhead(self._draw)
        self._first_tiles: list[tuple[Tensor, Tensor]] = []

    def result(self) -> UNet:
        """Return the network that is scored and published: the average of the weights, with statistics of its own."""
        network = cast(UNet, self.averaged.module)
        if not (self.plan.batch_norm and self.plan.statistics in OF_TRAINING):
            return network
        # Always the same ones, so that a run can be repeated, and continued.
        while len(self._first_tiles) < STATISTICS_TILES:
            self._first_tiles.append(self._draw(len(self._first_tiles)))
        with half_precision(self.device, self.precision):
            return by_average_statistics(network, (_input(*tile) for tile in self._first_tiles))

    def state(self) -> dict[str, Any]:
        """Return what ``load`` needs to go on from here."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.precision,
        }

    def load(self, state: Mapping[str, Any], with_momentum: bool) -> None:
        """Take over the weights that ``state`` returned; to go on with a run, its momentum and its precision too."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        if with_momentum:
            self.optimiser.load_state_dict(state["optimiser"])
            # Measured anew, it might be another one in the midst of a run. Older checkpoints don't have it.
            self.precision = state.get("precision", self.precision)

    def train(self, steps: range, progress: Callable[[], float]) -> Course:
        """Make some steps, fewer if the progress reaches 1 before; at least one.

        Args:
            steps: their numbers.
            progress: the part of the whole training that is done, 0 … 1; the learning rate falls with it.
        """
        self.network.train()
        began, waited, labelled = time.monotonic(), 0.0, 0
        losses: list[float] = []
        for step in steps:
            asked = time.monotonic()
            image, targets = self._tiles(step)
            if step == len(self._first_tiles) < STATISTICS_TILES:
                self._first_tiles.append((image, targets))
            waited += time.monotonic() - asked
            losses.append(self._step(image, targets, progress()))
            labelled += int((targets >= 0).sum())
            if progress() >= 1:
                break
        return Course(sum(losses) / len(losses), labelled, time.monotonic() - began, waited)

    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        # One generator per step: a continued run draws what an uninterrupted one would have drawn.
        return self.sampler.draw(np.random.default_rng((self.seed, step)))

    def _step(self, image: Tensor, targets: Tensor, progress: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * (1 - progress) ** 0.9
        self.optimiser.zero_grad(set_to_none=True)
        with half_precision(self.device, self.precision):
            logits = self.network(*_input(image, targets))
        loss = weighted_cross_entropy(logits.float(), targets.unsqueeze(0), self.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        return loss.item()


def _input(image: Tensor, targets: Tensor) -> tuple[Tensor, list[int]]:
    """Return what the network takes for a tile: (1, C, *given), and the input sizes that this stands for."""
    return laid_out(image.unsqueeze(0)), [size + 2 * CONTEXT for size in targets.shape]


def _average(share: float) -> Callable[..., None]:
    """Return how ``AveragedModel`` takes a step's weights into its running average.

    Args:
        share: of the average that stays in each step, 0 (the last step's weights alone) … 1; less in the first steps,
            so that the untrained weights are soon forgotten.
    """

    def take(averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        kept = min(share, (int(steps) + 1) / (int(steps) + 10))
        get_ema_multi_avg_fn(kept)(averaged, current, steps)  # type: ignore[no-untyped-call]

    return take


class _DrawnAhead:
    """Draws the next step's tile beside each step."""

    def __init__(self, draw: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.draw = draw
        self._drawing = ThreadPoolExecutor(max_workers=1)
        self._coming: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if self._coming is None or self._coming[0] != step:
            self._coming = step, self._drawing.submit(self.draw, step)
        tile = self._coming[1].result()
        self._coming = step + 1, self._drawing.submit(self.draw, step + 1)
        return tile
