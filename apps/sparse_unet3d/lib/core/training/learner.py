"""The network in training: stochastic gradient descent on one augmented tile at a time (section 3.2)."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from lib.core.data.sampling import SampledVolume, TileSampler
from lib.core.device.machine import is_out_of_memory
from lib.core.device.precision import half_precision, half_precision_of, precision_on
from lib.core.errors import InputError
from lib.core.loss.cross_entropy import class_weights
from lib.core.loss.losses import loss_named
from lib.core.model.model import build_network
from lib.core.network.batch_norm import by_average_statistics
from lib.core.network.crop import channels_last
from lib.core.network.tile_choice import choose_training_tile
from lib.core.plan.plan import LONGEST_GRADIENT, Plan

from .ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

STATISTICS_TILES = 16
"""Number of tiles over which batch normalisation's statistics for the averaged weights are taken."""

RESIDENT_SHARE = 0.25
"""Largest fraction of a GPU's free memory that the training volumes may take."""


@dataclass(frozen=True)
class StepsMade:
    """The outcome of some training steps.

    Attributes:
        loss: mean over the steps that were made; of several ranks, each has that of its own tiles.
        labelled: number of labelled voxels in the tiles of these steps, except for those left out.
        seconds: duration of these steps.
        waited: the part of these seconds in which training waited for tiles.
        left_out: number of steps skipped because their gradient was not finite.
    """

    loss: float
    labelled: int
    seconds: float
    waited: float
    left_out: int


class LearnerState(TypedDict):
    """The state that a learner continues from: torch's state dictionaries, and the floating point format."""

    network: dict[str, Any]
    averaged: dict[str, Any]
    optimiser: dict[str, Any]
    precision: torch.dtype


class Learner:
    """A network in training, with the running average of its weights. A context manager, since it has a thread.

    Args:
        plan: the plan by which to train.
        volumes: annotated and prepared volumes; slices for the 2-D network.
        device: ``cpu``, ``cuda`` or ``mps``.
        seed: draws the initial weights and the tiles. Each tile depends on the seed, its step's number and the rank.
        ranks: the processes that train together. A step follows the mean gradient of their tiles.

    Raises:
        InputError: nothing is annotated.
    """

    def __init__(
        self, plan: Plan, volumes: Sequence[SampledVolume], device: str, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self.plan, self.device, self.seed, self.ranks = plan, device, seed, ranks
        self.sampler = TileSampler(
            volumes,
            plan.scheme,
            plan.architecture.tiles,
            plan.tile,
            plan.augmentation,
            plan.context,
            plan.centres,
            _storage_device(volumes, device),
        )
        self.weights = torch.tensor(
            class_weights(self.sampler.class_counts.tolist(), plan.class_balance), device=device
        )
        # The global generator stays as it is.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build_network(plan, plan.is_padded).to(device)
        if plan.dims == 3:
            self.network = self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.precision = half_precision_of(device) if plan.half_precision else torch.float32
        self.loss = loss_named(plan.loss)
        self.averaged = RunningAverage(self.network, plan.averaging)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.nesterov
        )
        self._parallel = ranks.parallel(self.network)
        self._tiles = _DrawnAhead(self._draw)
        self._first_tiles: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *_: object) -> None:
        self._tiles.close()

    def result(self) -> nn.Module:
        """Return the network to score and publish: the averaged weights with batch normalisation statistics for them.

        It is not padded. The statistics are taken with the network in training, which may be padded.
        """
        averaged = self.averaged.module
        if self.plan.keeps_averages:
            # Always the same tiles, so that a run can be repeated, and continued.
            while len(self._first_tiles) < STATISTICS_TILES:
                self._first_tiles.append(self._draw(len(self._first_tiles)))
            with half_precision(self.device, self.precision):
                averaged = by_average_statistics(averaged, (_batch(image) for image, _ in self._first_tiles))
        with torch.random.fork_rng(devices=[]):
            network = build_network(self.plan).to(self.device)
        network.load_state_dict(averaged.state_dict())
        return network.eval()

    def is_finite(self) -> bool:
        """Return whether all weights are finite; training steps keep finite weights finite."""
        return all(bool(torch.isfinite(weights).all()) for weights in self.network.parameters())

    def state(self) -> LearnerState:
        """Return the state from which ``load`` continues."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.precision,
        }

    def load(self, state: LearnerState, with_momentum: bool) -> None:
        """Load the weights that ``state`` returned; to continue its run, also the momentum and the precision."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        if with_momentum:
            self.optimiser.load_state_dict(state["optimiser"])
            # The run may have begun on another machine.
            self.precision = precision_on(self.device, state["precision"])

    def train(self, steps: range, progress: Callable[[], float]) -> StepsMade:
        """Make training steps: at least one, and no more once the progress reaches 1.

        Args:
            steps: the steps' numbers.
            progress: called before each step; returns the fraction of the whole training that is done, 0 … 1. It sets
                the learning rate.
        """
        self.network.train()
        began, waited = time.monotonic(), 0.0
        # Counted where the tiles are: each look at a GPU's number waits until it has nothing left to compute.
        labelled = torch.zeros((), dtype=torch.int64, device=self.device)
        losses: list[float] = []
        left_out = 0
        for step in steps:
            done = progress()
            if done >= 1 and step > steps.start:
                break
            image, targets, loss, seconds = self._step_in_memory(step, done)
            if step == len(self._first_tiles) < STATISTICS_TILES:
                self._first_tiles.append((image, targets))
            waited += seconds
            if loss is None:
                left_out += 1
            else:
                losses.append(loss)
                labelled += (targets >= 0).sum()
        loss = sum(losses) / len(losses) if losses else math.nan
        return StepsMade(loss, int(labelled), time.monotonic() - began, waited, left_out)

    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        # One generator per step: a continued run draws what an uninterrupted one would have drawn. A zero at the end of
        # NumPy's seeds changes nothing: rank 0 draws what a single process would.
        image, targets = self.sampler.draw(np.random.default_rng((self.seed, step, self.ranks.rank)))
        return image.to(self.device), targets.to(self.device)

    def _step_in_memory(self, step: int, progress: float) -> tuple[Tensor, Tensor, float | None, float]:
        """Make a step. If memory is short, move the volumes to the host, then use ever smaller tiles.

        Returns:
            The tile's image and targets, the loss that ``_step`` returns, and the seconds waited for the tile.
        """
        draw: Callable[[int], tuple[Tensor, Tensor]] = self._tiles
        while True:
            try:
                asked = time.monotonic()
                image, targets = draw(step)
                waited = time.monotonic() - asked
                return image, targets, self._step(image, targets, progress), waited
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("Out of memory on %s with training tiles %s", self.device, self.plan.tile)
            self.optimiser.zero_grad(set_to_none=True)
            self._save_memory()
            draw = self._draw

    def _save_memory(self) -> None:
        """Use less memory from now on.

        Raises:
            InputError: the tile can't be smaller, or other ranks go on with the same tile.
        """
        if self.ranks.count > 1:
            raise InputError(
                f"training: memory on {self.device} doesn't suffice for the tile {self.plan.tile} in each of "
                f"{self.ranks.count} processes; start fewer of them, or train with a smaller --conf width"
            )
        if self.sampler.device != "cpu":
            self.sampler.keep_on_host()
        else:
            tiles, most = self.plan.architecture.tiles, self.sampler.tile_voxels // 2
            smaller = choose_training_tile(tiles, self.sampler.largest, most, self.plan.context)
            if smaller == self.plan.tile:
                raise InputError(
                    f"training: memory on {self.device} doesn't suffice even for the smallest tile {self.plan.tile}; "
                    "close other programs, or train with a smaller --conf width"
                )
            self.plan = replace(self.plan, tile=smaller)
            self.sampler.set_tile(smaller)
            self._first_tiles.clear()
        self._tiles.forget()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _step(self, image: Tensor, targets: Tensor, progress: float) -> float | None:
        """Make a step and return its loss; if the gradient isn't finite, make none and return None."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * (1 - progress) ** self.plan.decay
        self.optimiser.zero_grad(set_to_none=True)
        with half_precision(self.device, self.precision):
            logits = self._parallel(_batch(image))
        loss = self._loss(logits if isinstance(logits, list) else [logits], targets.unsqueeze(0))
        loss.backward()  # type: ignore[no-untyped-call]
        longest = LONGEST_GRADIENT if self.plan.batch_norm else math.inf
        length = clip_grad_norm_(self.network.parameters(), longest)
        # One look at the GPU's numbers for both. While it does the rest of the step, the next one can be prepared.
        length, found = torch.stack([length, loss.detach()]).tolist()
        if not math.isfinite(length):
            return None
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        return float(found)

    def _loss(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the loss of a network's outputs; under deep supervision each counts half as much as the one before."""
        shares = [0.5**number for number in range(len(logits))]
        losses = [self.loss(each.float(), targets, self.weights) for each in logits]
        return sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares)  # type: ignore[return-value]


def _storage_device(volumes: Sequence[SampledVolume], device: str) -> str:
    """Return where training volumes are kept: on the device if they take a small part of its memory, else on the host.

    Apple's GPU lacks operations that drawing tiles needs.
    """
    if device != "cuda":
        return "cpu"
    taken = sum(volume.nbytes for volume in volumes)
    return device if taken < RESIDENT_SHARE * torch.cuda.mem_get_info()[0] else "cpu"


def _batch(image: Tensor) -> Tensor:
    """Return a tile's image (C, *spatial) as the network's input (1, C, *spatial)."""
    return channels_last(image.unsqueeze(0))


class RunningAverage(AveragedModel):
    """A network with the running average of another one's weights.

    Args:
        network: the other one.
        share: share of the average that each step keeps, 0 (only the last step's weights) … 1. The first steps keep
            less, so that the untrained weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        super().__init__(network)
        self._share = share

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Add a step's weights. ``AveragedModel`` does the same, but waits for the GPU to know the number of steps."""
        steps = int(self.n_averaged)
        kept = min(self._share, (steps + 1) / (steps + 10)) if steps else 0.0
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), 1 - kept)
        for own, current in zip(self.module.buffers(), model.buffers(), strict=True):
            own.copy_(current)
        self.n_averaged += 1


class _DrawnAhead:
    """Draws the next step's tile in a thread while a step is made."""

    def __init__(self, draw: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        self.draw = draw
        self._drawing = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    def close(self) -> None:
        """End the thread."""
        self._drawing.shutdown(cancel_futures=True)

    def forget(self) -> None:
        """Discard the tile that was drawn ahead."""
        self._next = None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if self._next is None or self._next[0] != step:
            self._next = step, self._drawing.submit(self.draw, step)
        tile = self._next[1].result()
        self._next = step + 1, self._drawing.submit(self.draw, step + 1)
        return tile
