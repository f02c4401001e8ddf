"""Other software that learns from sparse annotation, called as the benchmarks call it."""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import LabelScheme
from lib.core.training.cases import TrainingCase


def learn_peer(
    peer: str,
    scheme: LabelScheme,
    cases: Sequence[TrainingCase],
    seed: int,
    seconds: float,
    progress: Callable[[float, str], None],
) -> dict[str, NDArray[np.uint8]]:
    """Train other software on annotated volumes for a time, and let it segment them.

    Args:
        peer: name of a module in ``benchmarks.learners``.
        scheme: the label scheme.
        cases: the annotated volumes.
        seed: seed of its randomness.
        seconds: training time.
        progress: called with the finished part, 0 … 1, and the peer's name.

    Returns:
        The segmentation (X, Y, Z) of each volume by id: 0 background, 1 … K foreground.
    """
    # Imported here by name, because each peer needs software that may not be installed.
    learning = importlib.import_module("benchmarks.learning")
    learner = importlib.import_module(f"benchmarks.learners.{peer}")

    class LastOnly(learning.Trial):  # type: ignore[misc, name-defined]
        """A trial that is scored only at its end."""

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
