"""The file from which training continues."""

from dataclasses import dataclass
from pathlib import Path

import torch

from lib.core.annotation.split import SliceSplit
from lib.core.errors import InputError
from lib.core.files import replacing
from lib.core.labels import LabelScheme
from lib.core.model.model import FORMAT, check_fit, load_content
from lib.core.model.origin import Paint, paint_from_json, paint_to_json
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan

from .learner import LearnerState


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a training run.

    Attributes:
        plan: the plan by which it trains.
        split: the annotated slices that it trains on, and those held out.
        learner: what ``Learner.state`` returned.
        run: time when the run started, which identifies it.
        epoch: epochs done.
        seconds: duration of training so far.
        scoring: duration of the last score in seconds.
        last_scored: the epoch after which it was made; 0 if this run has none yet.
        steps: training steps since the network was initialised, over all runs.
        begun: how many of these steps belong to the epoch that had begun.
        finished: whether the run came to its end.
        paint: what the network has learnt from since it was initialised.
    """

    plan: Plan
    split: SliceSplit
    learner: LearnerState
    run: str
    epoch: int
    seconds: float
    scoring: float
    last_scored: int
    steps: int
    begun: int
    finished: bool
    paint: Paint

    def save(self, path: Path) -> None:
        """Write the file, renamed into place."""
        content = {
            "format": FORMAT,
            "plan": self.plan.to_json(),
            "split": self.split.to_json(),
            **self.learner,
            "run": self.run,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "scoring": self.scoring,
            "last_scored": self.last_scored,
            "steps": self.steps,
            "begun": self.begun,
            "finished": self.finished,
            "paint": paint_to_json(self.paint),
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path, scheme: LabelScheme, channels: int, options: PlanOptions) -> "Checkpoint":
        """Read a checkpoint, and check that training can continue from it.

        Raises:
            InputError: the file is missing or damaged, or it has another label scheme, number of channels or network.
        """
        content = load_content(path)
        try:
            try:
                plan = Plan.from_json(content["plan"])
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
            check_fit(path, plan, scheme, channels)
            if not plan.agrees_with(options):
                raise InputError(f"{path}: was trained with another --conf width, spacing, recipe, network or loss")
            return cls(
                plan=plan,
                split=SliceSplit.from_json(content["split"]),
                learner={
                    "network": content["network"],
                    "averaged": content["averaged"],
                    "optimiser": content["optimiser"],
                    "precision": content["precision"],
                },
                run=content["run"],
                epoch=content["epoch"],
                seconds=content["seconds"],
                # Earlier versions didn't record scores.
                scoring=content.get("scoring", 0.0),
                last_scored=content.get("last_scored", 0),
                steps=content["steps"],
                # Earlier versions saved only between epochs.
                begun=content.get("begun", 0),
                finished=content["finished"],
                # Earlier versions didn't record it.
                paint=paint_from_json(content.get("paint")),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: the checkpoint is incomplete ({error})") from error
