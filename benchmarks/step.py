"""The training step: labelled voxels per second, the resulting IoU, and the paper's own training.

The literal side trains as the paper did: with its tile and its network, in float32 and in torch's default layout. Its
tiles are drawn in advance, so it never waits for them.
"""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lib.core.annotation.paint import Paint
from lib.core.data.sampling import SampledVolume
from lib.core.data.training_volumes import prepare_training
from lib.core.device.machine import Machine
from lib.core.device.memory import keep_freed_memory
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.loss.cross_entropy import weighted_cross_entropy
from lib.core.metrics import mean_iou
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.training.cases import TrainingCase
from lib.core.training.learner import Learner
from lib.core.volumes.volume import Volume
from lib.phantom.specimen import SAMPLE_SPECIMENS, make_phantom
from lib.simulation.annotator import paint_slices

from .data import PAPER_TILE, PAPER_WIDTH, smooth_volume, sparse_annotation
from .learning import Task, score, unseen_truth
from .results import Entry, IouEntry, SpeedEntry
from .timing import Announce, BenchmarkOptions, Side, compare
from .timing import measure as measure_sides

RATE = "step.labelled_voxels_per_second"
IOU = "step.iou"
PAPER = "step.paper_training"
KEYS = (RATE, IOU, PAPER)

RATE_BAR = 3.0
RATE_REPEATS = 5
RATE_STEPS = 4
"""Steps of each run."""

UNIT = 100_000
"""Times are given for this number of labelled voxels."""

IOU_REPEATS = 3
IOU_WIDTH = 8
"""Narrower than the paper's network, so that both sides can train long enough."""

IOU_VOXELS = 1_000_000
"""Number of labelled voxels to learn from before the IoU is measured."""

PAPER_STEPS = 70_000
PAPER_MINUTES = 3 * 24 * 60
"""The paper's training, as it reports it."""

STEP_BAR = 0.035
"""The target on a current GPU in seconds: all steps in about 40 minutes."""

PAPER_BAR = 60 * PAPER_MINUTES / (PAPER_STEPS * STEP_BAR)

COMPARED_STEPS = {"cpu": 4, "cuda": 400}
"""Steps of the paper's training, in half and in full precision."""

PARTS_OF_CURVE = 10
"""Parts of a loss curve, whose means are compared: losses of single steps differ with their tiles."""

MEMORY = 4 * 10**9
"""Bytes for segmentation."""

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def literal(plan: Plan) -> Plan:
    """Return the plan with the paper's tile, full context and full precision, otherwise unchanged."""
    return dataclasses.replace(plan, tile=PAPER_TILE, context=plan.architecture.tiles.context, half_precision=False)


def _sample(device: str, options: PlanOptions) -> tuple[Plan, SampledVolume]:
    """Return a plan and a volume, of the paper's first sample's size, with three annotated slices along each axis."""
    array = smooth_volume()
    volume = Volume(array, np.diag([1.76, 1.76, 2.04, 1.0]))
    plan = make_plan([volume], SCHEME, options, device)
    return plan, prepare_training(volume, Paint(sparse_annotation(array)), plan)


def prepare_rate(
    way: str, device: str, width: int = PAPER_WIDTH
) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """Prepare a side for ``benchmarks.side``: a run makes some steps; its time is scaled to ``UNIT`` labelled voxels.

    Args:
        way: ``ours`` or ``literal``.
        device: ``cpu`` or ``cuda``.
        width: width of the network.
    """
    keep_freed_memory()
    plan, sample = _sample(device, PlanOptions(width=width, loss="cross_entropy"))
    learner = Learner(plan if way == "ours" else literal(plan), [sample], device, seed=0)
    numbers = itertools.count(step=RATE_STEPS)

    def ours(_progress: Callable[[float], None]) -> dict[str, Any]:
        first = next(numbers)
        made = learner.train(range(first, first + RATE_STEPS), lambda: 0.0)
        return {"done": made.labelled / UNIT, "waited": made.waited / made.seconds}

    if way == "ours":
        return ours
    network = learner.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(network.parameters(), lr=plan.learning_rate, momentum=plan.momentum)
    tiles = [learner.sampler.draw(np.random.default_rng(step)) for step in range(RATE_REPEATS * RATE_STEPS)]

    def literally(_progress: Callable[[float], None]) -> dict[str, Any]:
        first = next(numbers) % len(tiles)
        labelled = 0
        for image, targets in tiles[first : first + RATE_STEPS]:
            optimiser.zero_grad()
            loss = weighted_cross_entropy(network(image[None]), targets[None], learner.weights)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            labelled += int((targets >= 0).sum())
        return {"done": labelled / UNIT}

    return literally


def prepare_iou(
    way: str, device: str, seed: int, voxels: int = IOU_VOXELS, width: int = IOU_WIDTH
) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """Prepare a side for ``benchmarks.side``: a run learns from labelled voxels and is scored on all others.

    It learns from two samples with three annotated slices along each axis.

    Args:
        way: ``ours`` or ``literal``; they differ in tile and precision, and therefore in the number of steps.
        device: ``cpu`` or ``cuda``.
        seed: seed of weights and tiles.
        voxels: number of labelled voxels to learn from.
        width: width of the network.
    """
    keep_freed_memory()
    specimens = SAMPLE_SPECIMENS[:2]
    arrays, truths = zip(*map(make_phantom, specimens), strict=True)
    volumes = [
        Volume(array, np.diag([*specimen.spacing, 1.0])) for array, specimen in zip(arrays, specimens, strict=True)
    ]
    generator = np.random.default_rng(0)
    annotations = [paint_slices(truth, SCHEME, 3, generator) for truth in truths]
    task = Task(
        SCHEME,
        tuple(TrainingCase("", *pair) for pair in zip(volumes, annotations, strict=True)),
        tuple(unseen_truth(*pair, SCHEME) for pair in zip(truths, annotations, strict=True)),
    )
    plan = make_plan(volumes, SCHEME, PlanOptions(width=width, loss="cross_entropy"), device)
    if way == "literal":
        plan = literal(plan)
    learner = Learner(
        plan, [prepare_training(v, Paint(a), plan) for v, a in zip(volumes, annotations, strict=True)], device, seed
    )

    def run(progress: Callable[[float], None]) -> dict[str, Any]:
        steps = learnt = 0
        seconds = 0.0
        while learnt < voxels:
            made = learner.train(range(steps, steps + 1), functools.partial(float, learnt / voxels))
            steps, learnt, seconds = steps + 1, learnt + made.labelled, seconds + made.seconds
            progress(min(1.0, learnt / voxels))
        segmenter = Segmenter(learner.result(), plan, torch.float32)
        iou = score(task, lambda case: segmenter.segment(case.load(), Machine(device, MEMORY)))
        return {"iou": mean_iou(iou), "steps": steps, "training_seconds": seconds}

    return run


def prepare_paper(
    half: bool, device: str, width: int = PAPER_WIDTH
) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """Prepare a side for ``benchmarks.side``: a run makes steps of the paper's training and draws their tiles.

    Args:
        half: compute in half precision, unlike the paper.
        device: ``cpu`` or ``cuda``.
        width: width of the network.
    """
    keep_freed_memory()
    plan, sample = _sample(device, PlanOptions(recipe="paper", width=width))
    learner = Learner(dataclasses.replace(plan, half_precision=half), [sample], device, seed=0)
    steps = COMPARED_STEPS[device]

    def run(progress: Callable[[float], None]) -> dict[str, Any]:
        # The first step includes work that is done once, such as the choice of algorithms.
        learner.train(range(1), lambda: 0.0)
        losses = []
        seconds = waited = 0.0
        for part in np.array_split(np.arange(1, steps + 1), min(PARTS_OF_CURVE, steps)):
            made = learner.train(range(int(part[0]), int(part[-1]) + 1), lambda: 0.0)
            losses.append(made.loss)
            seconds, waited = seconds + made.seconds, waited + made.waited
            progress(int(part[-1]) / steps)
        return {
            "losses": losses,
            "step_seconds": seconds / steps,
            "waited": waited / seconds,
            "precision": str(learner.precision),
        }

    return run


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Yield key and entry of each comparison."""
    for key, function in ((RATE, _rate), (IOU, _iou), (PAPER, _paper)):
        if key in keys:
            yield key, function(chosen, announce)


def _sides(function: Callable[..., Any], chosen: BenchmarkOptions, **of_side: dict[str, Any]) -> dict[str, Side]:
    """Return a side for each named set of options."""
    return {
        name: Side(f"{__name__}:{function.__name__}", {"device": chosen.device, **options})
        for name, options in of_side.items()
    }


def _rate(chosen: BenchmarkOptions, announce: Announce) -> SpeedEntry:
    sides = _sides(prepare_rate, chosen, ours={"way": "ours"}, literal={"way": "literal"})
    runs = measure_sides(sides, chosen.repeats or RATE_REPEATS, warm_up=True, announce=announce)
    note = (
        "labelled voxels per second, the paper's network at full width, three slices along each axis of a "
        f"volume of the paper's size; ours waits for tiles {100 * runs['ours'].facts['waited']:.1f} % of the time"
    )
    entry = compare(runs["ours"], {"literal": runs["literal"]}, RATE_BAR, chosen.command(RATE), note)
    return {
        **entry,
        "ours": UNIT / runs["ours"].median,
        "theirs": UNIT / runs["literal"].median,
        "runs": {name: [UNIT / seconds for seconds in own.seconds] for name, own in runs.items()},
        "waited": runs["ours"].facts["waited"],
        "unit": "labelled voxels/s",
    }


def _iou(chosen: BenchmarkOptions, announce: Announce) -> IouEntry:
    facts: dict[str, list[dict[str, Any]]] = {"ours": [], "literal": []}
    for seed in range(chosen.repeats or IOU_REPEATS):
        sides = _sides(
            prepare_iou, chosen, ours={"way": "ours", "seed": seed}, literal={"way": "literal", "seed": seed}
        )
        for name, runs in measure_sides(sides, 1, warm_up=False, announce=announce).items():
            facts[name].append(runs.facts)
    medians = {
        name: {fact: statistics.median(run[fact] for run in runs) for fact in runs[0]} for name, runs in facts.items()
    }
    described = "; ".join(
        "{name}: {iou:.3f} after {steps:.0f} steps in {training_seconds:.0f} s".format(name=name, **values)
        for name, values in medians.items()
    )
    return {
        "ours": medians["ours"]["iou"],
        "theirs": medians["literal"]["iou"],
        "runs": facts,
        "note": f"mean foreground IoU from {IOU_VOXELS} labelled voxels at width {IOU_WIDTH}, medians: {described}",
        "command": chosen.command(IOU),
    }


def _paper(chosen: BenchmarkOptions, announce: Announce) -> SpeedEntry:
    sides = _sides(prepare_paper, chosen, half={"half": True}, full={"half": False})
    runs = measure_sides(sides, 1, warm_up=False, announce=announce)
    facts = {name: measured.facts for name, measured in runs.items()}
    minutes = PAPER_STEPS * facts["half"]["step_seconds"] / 60
    differences = [
        abs(half / full - 1) for half, full in zip(facts["half"]["losses"], facts["full"]["losses"], strict=True)
    ]
    ratio = PAPER_MINUTES / minutes
    return {
        "ours": 60 * minutes,
        "theirs": 60 * PAPER_MINUTES,
        "theirs_is": "the paper's 3 days on a Titan X",
        "ratio": ratio,
        "spread": [ratio, ratio],
        "bar": PAPER_BAR if chosen.device == "cuda" else None,
        "facts": facts,
        "largest_loss_difference": max(differences),
        "note": f"the paper's {PAPER_STEPS} iterations, scaled from {COMPARED_STEPS[chosen.device]}: "
        f"{1000 * facts['half']['step_seconds']:.0f} ms each in {facts['half']['precision']}, "
        f"{1000 * facts['full']['step_seconds']:.0f} ms in float32, drawing tiles included; the mean loss of a part of "
        f"the curve differs from that in float32 by at most {100 * max(differences):.1f} %",
        "command": chosen.command(PAPER),
    }
