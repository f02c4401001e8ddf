"""The page of a project: where it stands, in numbers and pictures, for the people who paint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from lib.core.colours import colours
from lib.core.labels import LabelScheme

from .outlines import OutlinedSlice
from .page import Legend, Shown, render
from .pictures import png_of_figure


@dataclass(frozen=True)
class Axis:
    """What is known of the slices across an axis of a volume.

    Attributes:
        name: of the axis, for people.
        slices: how many there are.
        annotated, held_out, next: their indices in the order of the file: painted ones, those of them that training
            holds out, and those to paint next.
        uncertainty: mean uncertainty of each slice, 0 … 1; empty if it isn't known.
        text: the same in words, with the numbers that 3D Slicer shows.
    """

    name: str
    slices: int
    annotated: Sequence[int]
    held_out: Sequence[int]
    next: Sequence[int]
    uncertainty: Sequence[float]
    text: str


@dataclass(frozen=True)
class Advice:
    """A slice to paint next, and why."""

    place: str
    why: str


@dataclass(frozen=True)
class Version:
    """A version of an annotation, in words.

    Attributes:
        number: of the version.
        time: of the submission.
        client: who submitted it.
        change: what it has that the previous one hasn't, and the other way round.
        is_current: whether it counts.
    """

    number: int
    time: str
    client: str
    change: str
    is_current: bool


@dataclass(frozen=True)
class VolumeSection:
    """What the page says of a volume.

    Attributes:
        id: its name.
        facts: size, voxels, channels, per cent labelled, in words.
        fault: why it can't be shown; empty if it can.
        axes: what is known of the slices across each axis.
        views: a slice across each axis.
        advice: what to paint next.
        note: what to know about the advice; may be empty.
        prediction: which model made the latest prediction, and when; empty if there is none.
        versions: of the annotation, the newest first.
    """

    id: str
    facts: Sequence[str]
    fault: str = ""
    axes: Sequence[Axis] = ()
    views: Sequence[OutlinedSlice] = ()
    advice: Sequence[Advice] = ()
    note: str = ""
    prediction: str = ""
    versions: Sequence[Version] = ()


@dataclass(frozen=True)
class HeldOutSlice:
    """A held-out slice with paint beside prediction.

    Attributes:
        volume: name of the volume.
        iou: by class; None for a class that is in neither.
        mean: over the classes; None if there is none.
        picture: the slice, with its name as the caption.
    """

    volume: str
    iou: Mapping[str, float | None]
    mean: float | None
    picture: OutlinedSlice


@dataclass(frozen=True)
class Epoch:
    """An epoch of training: its number, its loss, and the IoU by class after it, where it was scored."""

    number: int
    loss: float
    iou: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSection:
    """What the page says of the training.

    Attributes:
        state: in a sentence.
        model: what is published, in a sentence.
        metric: what the IoU was measured on.
        epochs: of the latest run.
        submissions: for each number of annotated slices, the best IoU; in ascending order.
        forecast: sentences about what more painting brings.
    """

    state: str
    model: str
    metric: str
    epochs: Sequence[Epoch]
    submissions: Sequence[tuple[int, float]]
    forecast: Sequence[str]


@dataclass(frozen=True)
class ProjectReport:
    """All that the page of a project shows.

    Attributes:
        name: of the project.
        time: when this was so.
        scheme: the classes.
        summary: one or two sentences about where the project stands.
        volumes: in the order of their names.
        training: what is known of the training.
        held_out: the held-out slices, the worst first.
        notes: what else a person should know.
    """

    name: str
    time: str
    scheme: LabelScheme
    summary: str
    volumes: Sequence[VolumeSection]
    training: TrainingSection
    held_out: Sequence[HeldOutSlice]
    notes: Sequence[str]


def project_page(report: ProjectReport) -> str:
    """Return the HTML of a project's page: one file, which needs no other."""
    table = colours(report.scheme)
    training = report.training
    return render(
        "project.html.j2",
        report=report,
        legend=Legend.of(report.scheme, table),
        curve=Shown(_training_curve(training, report.scheme), _describe_curve(training)) if training.epochs else None,
        gains=Shown(_submissions_curve(training), _describe_submissions(training)) if training.submissions else None,
    )


def _training_curve(training: TrainingSection, scheme: LabelScheme) -> bytes:
    """Draw the loss and the IoU of each class over the epochs of a run, as a PNG file."""
    table = colours(scheme)
    figure = Figure(figsize=(9, 3), layout="constrained")
    loss, iou = figure.subplots(1, 2)
    loss.plot([epoch.number for epoch in training.epochs], [epoch.loss for epoch in training.epochs], color="black")
    loss.set(title="Loss (lower is better)", ylabel="loss", ylim=(0, None))
    for value, name in enumerate(scheme.foreground, start=1):
        scored = [(epoch.number, epoch.iou[name]) for epoch in training.epochs if name in epoch.iou]
        if scored:
            iou.plot(*np.transpose(scored), color=table[value] / 255, marker=".", label=name)
            iou.legend(loc="lower right")
    iou.set(title=f"{training.metric} (higher is better)", ylabel="IoU", ylim=(0, 1))
    for axes in (loss, iou):
        axes.set(xlabel="epoch", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return png_of_figure(figure, dpi=130)


def _describe_curve(training: TrainingSection) -> str:
    last = training.epochs[-1]
    return f"Loss and IoU over {len(training.epochs)} epochs; the last loss is {last.loss:.3f}"


def _submissions_curve(training: TrainingSection) -> bytes:
    """Draw the best IoU over the number of annotated slices, as a PNG file."""
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    slices, iou = np.transpose(training.submissions)
    axes.plot(slices, iou, color="black", marker="o")
    axes.set(title=training.metric, xlabel="annotated slices", ylabel="best IoU", xlim=(0, None), ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return png_of_figure(figure, dpi=130)


def _describe_submissions(training: TrainingSection) -> str:
    return "Best IoU: " + ", ".join(f"{iou:.2f} with {slices} slices" for slices, iou in training.submissions)
