"""The methods that are compared: variants of the paper's network, this software's default, and other software."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.data.training_volumes import prepare_training
from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.files import replacing
from lib.core.inference.segmenter import Segmenter
from lib.core.inference.slicewise import prepare_training_slices, segment_slices
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import FORMAT, load_content
from lib.core.network.architectures import PAPER
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.training.cases import TrainingCase
from lib.core.training.learner import Learner, LearnerState
from lib.core.training.options import TrainingOptions
from lib.core.training.report import TrainingReport
from lib.core.training.run import train
from lib.core.volumes.volume import Volume

from .interpolation import interpolate
from .peers import learn_peer
from .study import Places

WHOLE_SLICE = PAPER.tiles.covering((1024, 1024))
"""Largest tile of the 2-D network; smaller slices get smaller tiles."""

PIECE = 10
"""Training steps between two checks of the time."""

KEEP_SECONDS = 60
"""Time between two checkpoints; a killed process loses at most this much training."""


class OutOfTimeError(Exception):
    """The time is up; the run can be continued."""


@dataclass(frozen=True)
class Size:
    """The size of the experiments.

    Attributes:
        halved: whether the phantom's sides have half as many voxels.
        options: options of the plan of the paper's networks.
        device: device that the size is made for, ``cpu`` or ``cuda``.
        memory: bytes for segmentation; fixed, because the tiles and with them their statistics depend on it.
        steps: number of training steps.
        table_2_steps: the same for Table 2, where the paper trained for 10 hours instead of 3 days.
        slice_steps: steps of the 2-D network per step of a 3-D network, which takes about the same time.
        peer_seconds: training time of other software.
    """

    halved: bool
    options: PlanOptions
    device: str
    memory: int
    steps: int
    table_2_steps: int
    slice_steps: int
    peer_seconds: float


SIZES = {
    "small": Size(
        halved=True,
        # The loss is the paper's; by default, Dice is added.
        options=PlanOptions(width=8, loss="cross_entropy"),
        device="cpu",
        memory=4 * 10**9,
        steps=800,
        table_2_steps=300,
        slice_steps=6,
        peer_seconds=240,
    ),
    "paper": Size(
        halved=False,
        options=PlanOptions(recipe="paper"),
        device="cuda",
        memory=30 * 10**9,
        steps=70_000,
        table_2_steps=9_700,
        slice_steps=6,
        peer_seconds=3600,
    ),
}

Planes = dict[AnnotatedSlice, NDArray[np.uint8]]
"""Segmented slices, the two other axes of (X, Y, Z): 0 background, 1 … K foreground."""

Segment = Callable[[str, Volume, Places], Planes]
"""Segments slices of a volume: ``segment(name, volume, places)``."""


@dataclass(frozen=True, eq=False)
class MethodInput:
    """What a method learns from, and how.

    Attributes:
        scheme: the label scheme.
        cases: the annotated volumes.
        slices: the annotated slices of each volume.
        steps: number of training steps of a 3-D network.
        seed: seed of all randomness.
        size: size of the experiments.
        machine: what to compute on.
        folder: folder for what the method needs to continue after an interruption.
        progress: called with the finished part, 0 … 1, and a text about it; raises ``OutOfTimeError``.
    """

    scheme: LabelScheme
    cases: Sequence[TrainingCase]
    slices: Mapping[str, Places]
    steps: int
    seed: int
    size: Size
    machine: Machine
    folder: Path
    progress: Callable[[float, str], None]

    @property
    def volumes(self) -> list[Volume]:
        return [case.load() for case in self.cases]


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        title: name for tables.
        plan: returns the plan for volumes and a size; None for methods without a plan of ours.
        learn: trains, and returns what segments.
        package: package that it needs in addition.
        segments_unseen: whether it can segment volumes that it hasn't learnt from.
        is_random: whether the seed makes a difference.
        in_one_go: whether it can't continue after an interruption.
        on_cpu: whether it computes on the CPU even if there is a GPU.
    """

    title: str
    plan: Callable[[Sequence[Volume], LabelScheme, Size], Plan | None]
    learn: Callable[[MethodInput], Segment]
    package: str | None = None
    segments_unseen: bool = True
    is_random: bool = True
    in_one_go: bool = False
    on_cpu: bool = False

    @property
    def is_available(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or any(True for _ in distributions(name=self.package))


def paper_plan(change: Callable[[Plan], Plan], volumes: Sequence[Volume], scheme: LabelScheme, size: Size) -> Plan:
    """Return the plan of a variant of the paper's 3-D network with batch normalisation.

    Args:
        change: turns the network's plan into the variant's.
        volumes: the training volumes.
        scheme: the label scheme.
        size: size of the experiments.
    """
    plan = make_plan(volumes, scheme, size.options, size.device)
    # Half precision where that is faster, unlike the paper: it takes less than half the time.
    return change(replace(plan, statistics="tile", averaging=0.0, half_precision=True))


def _paper_method(title: str, change: Callable[[Plan], Plan]) -> Method:
    plan = functools.partial(paper_plan, change)
    return Method(title, plan, functools.partial(_learn_as_in_paper, plan))


def _learn_as_in_paper(plan_of: Callable[..., Plan], given: MethodInput) -> Segment:
    plan = plan_of(given.volumes, given.scheme, given.size)
    if plan.dims == 3:
        images = [prepare_training(case.volume, case.paint, plan) for case in given.cases]
        learner = Learner(plan, images, given.machine.device, given.seed)
        network = _train(learner, given, given.steps)
        return _by_volume(Segmenter(network, plan, learner.precision), given.machine)
    images = [
        image
        for case in given.cases
        for image in prepare_training_slices(case.load(), case.annotation, given.slices[case.id], plan)
    ]
    network = _train(
        Learner(plan, images, given.machine.device, given.seed), given, given.steps * given.size.slice_steps
    )
    return lambda _name, volume, places: segment_slices(network, volume, places, plan, given.machine.device)


def _train(learner: Learner, given: MethodInput, steps: int) -> nn.Module:
    """Train for ``steps`` steps, or continue after an interruption, with checkpoints; return the network."""
    checkpoint = ModelFolder(given.folder).checkpoint
    done = 0
    if checkpoint.is_file():
        content = load_content(checkpoint)
        learner.load(cast(LearnerState, content), with_momentum=True)
        done = content["steps"]

    def keep() -> None:
        with replacing(checkpoint) as beside:
            torch.save({"format": FORMAT, **learner.state(), "steps": done}, beside)

    kept = time.monotonic()
    while done < steps:
        piece, part = range(done, min(done + PIECE, steps)), done / steps
        made = learner.train(piece, lambda part=part: part)  # type: ignore[misc]
        if not math.isfinite(made.loss):
            raise InputError(f"training diverged before step {piece.stop} (loss {made.loss}); look for outliers")
        done = piece.stop
        try:
            given.progress(done / steps, f"step {done} of {steps}, loss {made.loss:.3f}")
        except OutOfTimeError:
            keep()
            raise
        if done == steps or time.monotonic() - kept >= KEEP_SECONDS:
            keep()
            kept = time.monotonic()
    return learner.result()


def training_precision(folder: Path) -> str | None:
    """Return the floating-point format that a finished training chose for its steps; None without training.

    Args:
        folder: the method's, see ``MethodInput``.
    """
    checkpoint = ModelFolder(folder).checkpoint
    return str(load_content(checkpoint)["precision"]) if checkpoint.is_file() else None


def _by_volume(segmenter: Segmenter, machine: Machine) -> Segment:
    return lambda _name, volume, places: cut_slices(segmenter.segment(volume, machine), places)


def cut_slices(labels: NDArray[np.uint8], places: Places) -> Planes:
    """Cut slices out of a segmented volume (X, Y, Z)."""
    return {place: np.take(labels, place.index, axis=place.axis) for place in places}


def _default_plan(volumes: Sequence[Volume], scheme: LabelScheme, size: Size) -> Plan:
    return make_plan(volumes, scheme, PlanOptions(), size.device)


def _learn_by_default(given: MethodInput) -> Segment:
    """Train like the server for the given number of steps; the published model segments."""
    folder = ModelFolder(given.folder)
    plan = _default_plan(given.volumes, given.scheme, given.size)
    epochs = max(1, round(given.steps / plan.steps_per_epoch))

    def report(latest: TrainingReport) -> None:
        text = f"epoch {latest['epoch']} of {epochs}, loss {latest['loss']:.3f}, {latest['message']}"
        given.progress(latest["epoch"] / epochs, text)

    if not (folder.checkpoint.is_file() and load_content(folder.checkpoint)["finished"]):
        options = TrainingOptions(max_epochs=epochs, seed=given.seed)
        train(given.cases, given.scheme, folder, options, PlanOptions(), given.machine, report)
    model = folder.load(given.scheme)
    return _by_volume(Segmenter.of(model), given.machine)


def _no_plan(_volumes: Sequence[Volume], _scheme: LabelScheme, _size: Size) -> None:
    return None


def _interpolate(given: MethodInput) -> Segment:
    return _from_volumes({case.id: interpolate(case.annotation, given.scheme) for case in given.cases})


def _peer(name: str, module: str) -> Method:
    """Return a method of other software, which segments only what it has learnt from."""
    learn = functools.partial(_learn_by_peer, module)
    return Method(name, _no_plan, learn, package=name, segments_unseen=False, in_one_go=True, on_cpu=True)


def _learn_by_peer(peer: str, given: MethodInput) -> Segment:
    return _from_volumes(
        learn_peer(peer, given.scheme, given.cases, given.seed, given.size.peer_seconds, given.progress)
    )


def _from_volumes(segmented: Mapping[str, NDArray[np.uint8]]) -> Segment:
    return lambda name, _volume, places: cut_slices(segmented[name], places)


METHODS: Mapping[str, Method] = {
    # The learning rates with the best IoU: in 2-D 0.1 (0.02 was tried); in 3-D with BN, 0.05 and 0.1 were equal.
    # Without BN, training diverges at 0.02.
    "2d_bn": _paper_method(
        "2-D with BN",
        lambda plan: replace(plan, dims=2, tile=WHOLE_SLICE, context=PAPER.tiles.context, learning_rate=0.1),
    ),
    "3d_no_bn": _paper_method("3-D without BN", lambda plan: replace(plan, batch_norm=False, learning_rate=0.005)),
    "3d_bn": _paper_method("3-D with BN", lambda plan: plan),
    "default": Method("this software's default", _default_plan, _learn_by_default),
    "interpolation": Method(
        "interpolation between slices",
        _no_plan,
        _interpolate,
        package="itk-morphologicalcontourinterpolation",
        segments_unseen=False,
        is_random=False,
        on_cpu=True,
    ),
    "pytorch3dunet": _peer("pytorch3dunet", "pytorch3dunet"),
    "nnunetv2": _peer("nnunetv2", "nnunet"),
}
"""By their names in tables. BN: batch normalisation."""
