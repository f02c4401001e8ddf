"""The results of the demo, as in its ``report.json``."""

from typing import TypedDict


class Epoch(TypedDict):
    """What the trainer reported after an epoch.

    ``seconds``: duration of the training so far. ``metric``: name of the score. ``score`` and ``iou`` (by class):
    those of the last evaluation, None before the first.
    """

    epoch: int
    seconds: float
    loss: float
    metric: str
    score: float | None
    iou: dict[str, float | None] | None


class Training(TypedDict):
    """The trainer's last statistics: those that pages need, of all that the file holds.

    ``seconds``: duration of the training. ``message``: how it ended, for people.
    """

    seconds: float
    message: str
    history: list[Epoch]


class Scores(TypedDict):
    """IoU by class and their mean, 0 … 1; None for a class that is neither in the truth nor predicted."""

    mean_foreground_iou: float | None
    iou: dict[str, float | None]


class VolumeScores(Scores):
    """A volume's scores on the voxels that nobody painted.

    ``annotated_slices``: along each axis, the indices of the slices that are painted completely.
    ``labelled_voxels_percent``: 0 … 100.
    """

    id: str
    annotated: bool
    annotated_slices: list[list[int]]
    labelled_voxels_percent: float


class Summary(TypedDict):
    """What was measured.

    ``semi_automated``: mean over the annotated volumes. ``fully_automated``: mean over the others.
    ``labelled_voxels_percent``: share of painted voxels in the annotated volumes, 0 … 100.
    """

    semi_automated: Scores
    fully_automated: Scores
    labelled_voxels_percent: float
    volumes: list[VolumeScores]
    training: Training


class DemoResult(Summary):
    """The content of the file.

    ``seconds``: duration of the demo. ``command``: the command line. ``versions``: version of each package, by name.
    """

    seconds: float
    slices_per_axis: int
    seed: int
    command: str
    versions: dict[str, str]
