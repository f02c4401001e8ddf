"""Other software that learns from sparse annotation, called as the benchmarks call it."""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import LabelScheme
from lib.core.training.run import TrainingCase


def learn_peer(
    peer: str,
    scheme: LabelScheme,
    cases: Sequence[TrainingCase],
    seed: int,
    seconds: float,
    progress: Callable[[float, str], None],
) -> dict[str, NDArray[np.uint8]]:
    """Let other software learn from the annotations for a time; return the cases' volumes segmented, by id.

    Args:
        peer: a module of ``benchmarks.learners``.
        scheme: the label scheme.
        cases: the annotated volumes.
        seed: of its randomness.
        seconds: how long it learns.
        progress: told the part that is done, 0 … 1.

    Returns:
        (X, Y, Z) each, 0 background, 1 … K foreground.
    """
    # Imported here, by name: each peer needs software that may not be installed.
    learning = importlib.import_module("benchmarks.learning")
    learner = importlib.import_module(f"benchmarks.learners.{peer}")

    class LastOnly(learning.Trial):  # type: ignore[misc, name-defined]
        """A trial that is scored at its end only."""

        @property
        def is_due(self) -> bool:
            progress(min(1.0, self.clock.seconds / seconds), peer)
            return False

        def score(self, segment: Callable[[TrainingCase], NDArray[np.uint8]]) -> None:
            self.segmented = {case.id: segment(case) for case in self.task.cases}

    trial = LastOnly(learning.Task(scheme, tuple(cases), ()), seconds, 0.0, lambda _part: None)
    learner.learn(trial, seed)
    segmented: dict[str, NDArray[np.uint8]] = trial.segmented
    return segmented
