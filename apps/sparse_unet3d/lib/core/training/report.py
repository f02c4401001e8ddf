"""What training reports after each epoch."""

from typing import TypedDict


class TrainingReport(TypedDict):
    """The report after an epoch, as JSON values.

    Attributes:
        run: time when the training run started (ISO 8601); it identifies the run.
        epoch: number of epochs done.
        total_epochs: number of epochs that the options allow.
        seconds: duration of training so far.
        loss: mean loss of the epoch; NaN if no step was made.
        waited: share of the epoch's time in which it waited for training tiles, 0 … 1.
        metric: ``validation IoU``, or ``training IoU`` if nothing is held out.
        score: mean foreground IoU of the last evaluation, 0 … 1; None before the first.
        iou: the same by class; None for a class that is not in the scored voxels.
        best_metric: score of the published model; 0 if there is none.
        published: whether the published model is of this run.
        finished: whether training has ended.
        message: for people.
    """

    run: str
    epoch: int
    total_epochs: int
    seconds: float
    loss: float
    waited: float
    metric: str
    score: float | None
    iou: dict[str, float | None] | None
    best_metric: float
    published: bool
    finished: bool
    message: str
