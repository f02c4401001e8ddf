"""Two processes that train one network, by gloo, compared with a plain loop over the tiles of both."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

from lib.core.data.training_volumes import prepare_training
from lib.core.device.machine import Machine
from lib.core.errors import InputError, Stopped
from lib.core.labels import IGNORED, LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.network.unet import UNet
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.training import run as training
from lib.core.training.cases import TrainingCase
from lib.core.training.learner import Learner
from lib.core.training.options import TrainingOptions
from lib.core.training.ranks import ALONE, Ranks, joined, own_gpu
from lib.core.volumes.volume import Volume
from ranked import Died, TwoRanks

SCHEME = LabelScheme(("ball",), "outside")
SHAPE = (40, 20, 12)
STEPS = 2
SMALL = 0.01
"""Factor of the loss, so that gradients aren't clipped: of what is clipped, the sum and the mean are the same."""


@pytest.fixture(scope="module")
def in_ranks() -> Iterator[TwoRanks]:
    two = TwoRanks()
    yield two
    two.end()


def case() -> TrainingCase:
    """An image of noise with three annotated slices, of which one is held out."""
    volume = Volume(np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32), np.eye(4))
    annotation = np.zeros(SHAPE, np.uint8)
    for x in (4, 20, 36):
        annotation[x] = 2
        annotation[x, 5:12, 3:9] = 1
    return TrainingCase("a", volume, annotation)


def learner(ranks: Ranks) -> Learner:
    only = case()
    options = PlanOptions(width=2, loss="cross_entropy")
    plan = replace(make_plan([only.volume], SCHEME, options, "cpu"), half_precision=False, averaging=0.9)
    return Learner(plan, [prepare_training(only.volume, only.paint, plan)], "cpu", 3, ranks)


def arrays(state: Any) -> dict[str, np.ndarray]:
    """Return the weights in a state; batch normalisation's averages are each rank's own."""
    own = ("running_mean", "running_var", "num_batches_tracked")
    return {name: np.array(value) for name, value in state.items() if not name.endswith(own)}


def flat(state: Any) -> np.ndarray:
    """Return all weights in a state as one vector."""
    return np.concatenate([np.ravel(value) for value in arrays(state).values()])


def make_steps(ranks: Ranks) -> list[dict[str, np.ndarray]]:
    """Return the weights after each step, and the averaged ones at the end."""
    found = []
    with learner(ranks) as ours:
        loss = ours.loss
        ours.loss = lambda *given: SMALL * loss(*given)
        for step in range(STEPS):
            ours.train(range(step, step + 1), lambda step=step: 0.25 * step)  # type: ignore[misc]
            found.append(arrays(ours.network.state_dict()))
        return [*found, arrays(ours.averaged.module.state_dict())]


def test_a_step_follows_the_mean_gradient_of_the_tiles_of_all_ranks(in_ranks: TwoRanks) -> None:
    """The plain loop has the tiles of both ranks in each of its steps, and normalises each by its own statistics."""
    first, second = in_ranks(make_steps)
    for ours, theirs in zip(first, second, strict=True):
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
    with learner(ALONE) as alone:
        draw, weights = alone.sampler.draw, alone.weights
    torch.manual_seed(3)
    network = UNet(1, 2, width=2, padded=True).to(memory_format=torch.channels_last_3d).train()
    before = flat(network.state_dict())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - 0.25 * step) ** 0.9
        optimiser.zero_grad()
        for seed in ((3, step), (3, step, 1)):
            image, targets = draw(np.random.default_rng(seed))
            labelled = targets != IGNORED
            logits = network(image[None].contiguous(memory_format=torch.channels_last_3d))[0][:, labelled].T
            (SMALL * nn.functional.cross_entropy(logits, targets[labelled], weight=weights) / 2).backward()
        assert nn.utils.clip_grad_norm_(network.parameters(), 5) < 5
        optimiser.step()
        # Rounding alone makes 1 %, depending on threads and processor: few voxels are normalised on coarse levels.
        expected, found = (weights - before for weights in (flat(network.state_dict()), flat(first[step])))
        assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def step_over_bad_gradient(ranks: Ranks) -> tuple[int, list[dict[str, np.ndarray]]]:
    """Make a step in which the second rank's loss is infinite; return how many were left out, and the weights."""
    with learner(ranks) as ours:
        loss = ours.loss
        ours.loss = lambda *given: loss(*given) * (np.inf if ranks.rank == 1 else 1)
        before = arrays(ours.network.state_dict())
        made = ours.train(range(1), lambda: 0.0)
        return made.left_out, [before, arrays(ours.network.state_dict())]


def test_all_ranks_skip_a_step_whose_gradient_is_not_finite_on_one(in_ranks: TwoRanks) -> None:
    for left_out, (before, after) in in_ranks(step_over_bad_gradient):
        assert left_out == 1
        for name in before:
            np.testing.assert_array_equal(after[name], before[name])


def train(
    ranks: Ranks,
    folder: Path,
    raise_if_stopping: Callable[[], None] = lambda: None,
    annotated: TrainingCase | None = None,
    **options: Any,
) -> tuple[list[Any], dict[str, Any]]:
    """Train with epochs of 3 steps; return the reports that this rank makes, and the last one."""
    reports: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_plan", lambda *given: replace(make_plan(*given), steps_per_epoch=3))
        final = training.train(
            [annotated or case()],
            SCHEME,
            ModelFolder(folder),
            TrainingOptions(**options),
            PlanOptions(width=2, loss="cross_entropy"),
            Machine("cpu", 4 * 10**9),
            reports.append,
            raise_if_stopping,
            ranks,
        )
    return reports, {**final}


def train_until(ranks: Ranks, folder: Path, epochs: int) -> tuple[list[Any], dict[str, Any]]:
    monotonic = time.monotonic
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == 1:
            # Its clock runs ahead, but only that of rank 0 decides when the time is up.
            patch.setattr(time, "monotonic", lambda: 10**8 * monotonic())
        return train(ranks, folder, max_epochs=epochs, max_minutes=60)


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)  # type: ignore[no-any-return]


def test_rank_0_judges_publishes_and_reports_and_any_number_of_ranks_continues(
    in_ranks: TwoRanks, tmp_path: Path
) -> None:
    (reports, final), (others, same) = in_ranks(train_until, tmp_path, 2)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert others == []
    assert final == same == reports[-1]
    assert final["published"]
    assert final["finished"]
    kept = checkpoint(tmp_path)
    assert kept["steps"] == kept["network"]["analysis.0.1.num_batches_tracked"] == 6
    assert ModelFolder(tmp_path).load(SCHEME).score == final["best_metric"]
    train(ALONE, tmp_path, max_epochs=1)
    assert checkpoint(tmp_path)["steps"] == 9
    in_ranks(train_until, tmp_path, 1)
    assert checkpoint(tmp_path)["steps"] == 12
    assert len(ModelFolder(tmp_path).history()) >= 3


def train_until_one_is_stopped(ranks: Ranks, folder: Path) -> None:
    """The second rank is told to stop before its fifth step."""
    calls = 0

    def raise_if_stopping() -> None:
        nonlocal calls
        calls += 1
        # One call is for reading the volume.
        if ranks.rank == 1 and calls > 5:
            raise Stopped

    train(ranks, folder, raise_if_stopping, max_epochs=100)


def test_all_ranks_stop_when_one_is_told_to_and_the_steps_are_kept(in_ranks: TwoRanks, tmp_path: Path) -> None:
    assert [type(outcome) for outcome in in_ranks(train_until_one_is_stopped, tmp_path)] == [Stopped, Stopped]
    kept = checkpoint(tmp_path)
    assert (kept["steps"], kept["epoch"], kept["begun"]) == (4, 1, 1)


def train_until_one_dies(ranks: Ranks, folder: Path) -> None:
    def die() -> None:
        if ranks.rank == 1 and (folder / "checkpoint.pt").exists():
            os._exit(9)

    train(ranks, folder, die, max_epochs=100_000)


@pytest.mark.slow
def test_the_others_end_when_a_rank_is_killed(tmp_path: Path) -> None:
    two = TwoRanks()
    first, second = two(train_until_one_dies, tmp_path)
    two.end()
    assert isinstance(first, RuntimeError)
    assert isinstance(second, Died)
    assert checkpoint(tmp_path)["steps"] >= 3


def train_on_other_annotations(ranks: Ranks, folder: Path) -> None:
    other = case()
    other.annotation[20, 0, 0] = ranks.rank
    train(ranks, folder, annotated=other, max_epochs=1)


def test_ranks_that_have_read_different_annotations_are_refused(in_ranks: TwoRanks, tmp_path: Path) -> None:
    for outcome in in_ranks(train_on_other_annotations, tmp_path):
        assert isinstance(outcome, InputError)
        assert "the annotations changed while several processes read them" in str(outcome)


def refuse(ranks: Ranks) -> None:
    def work() -> None:
        raise InputError("no.nii: can't be read")

    ranks.by_first(work)


def test_what_rank_0_refuses_all_refuse(in_ranks: TwoRanks) -> None:
    assert [str(outcome) for outcome in in_ranks(refuse)] == ["no.nii: can't be read"] * 2


def gpus(_: Ranks) -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_each_rank_sees_its_own_gpu(in_ranks: TwoRanks) -> None:
    assert in_ranks(gpus, CUDA_VISIBLE_DEVICES="98,GPU-99") == ["98", "GPU-99"]
    for visible, own in ((None, ["0", "1"]), ("4,7", ["4", "7"]), ("4", ["4", "-1"]), ("", ["", "-1"])):
        assert [own_gpu(local_rank, visible) for local_rank in (0, 1)] == own


def test_a_single_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined() as ranks:
        assert ranks == ALONE
        assert not distributed.is_initialized()


def test_ranks_on_one_computer_share_the_memory_of_its_processor() -> None:
    cpu, ranks = Machine("cpu", 8), Ranks(rank=1, count=4, local=2)
    assert ranks.share_of(cpu) == Machine("cpu", 4)
    assert ranks.share_of(Machine("cuda", 8, fallback=cpu)) == Machine("cuda", 8, fallback=Machine("cpu", 4))
    assert ALONE.share_of(cpu) == cpu
