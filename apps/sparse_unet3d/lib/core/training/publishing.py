"""Publishing: a better model on the same voxels is never replaced, whoever published it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan

from .evaluation import ScoredRegion, score_network


class Publisher:
    """Publishes the models of a run if they are as good as the published one as it stands on disk.

    Other trainings may publish at any time, and people may put back an archived model.
    """

    def __init__(
        self,
        folder: ModelFolder,
        scheme: LabelScheme,
        channels: int,
        options: PlanOptions,
        machine: Machine,
        regions: Callable[[Plan], Sequence[ScoredRegion]],
        raise_if_stopping: Callable[[], None],
    ) -> None:
        """Prepare to publish.

        Args:
            folder: where models are kept.
            scheme: the run's label scheme.
            channels: of the run's images.
            options: what a person decided about the plan, which *Run* follows too.
            machine: what to score on.
            regions: returns the voxels that the run's models are scored on, prepared by a plan.
            raise_if_stopping: called between tiles; what it raises ends the work.
        """
        self.folder, self.scheme, self.channels, self.options = folder, scheme, channels, options
        self.machine, self.regions, self.raise_if_stopping = machine, regions, raise_if_stopping
        self._file: tuple[int, ...] | None = None
        self.run: str | None = None
        self.score: float | None = None

    def look(self) -> None:
        """Read and score the published model if it is another one than before.

        Afterwards ``run`` and ``score`` (0 … 1) are its own, or None if there is none that does the same task.
        """
        file = self.folder.published_file()
        if file == self._file:
            return
        self.run = self.score = None
        if model := fitting_model(self.folder, self.scheme, self.channels, self.options):
            # It is scored again, since annotations may have changed since it was published.
            regions = self.regions(model.plan)
            self.score, _ = score_network(
                model.network, model.plan, model.precision, regions, self.machine, self.raise_if_stopping
            )
            self.run = model.run
        self._file = file

    def offer(self, model: Model) -> bool:
        """Publish a model unless the published one is better; tell which."""
        while True:
            self.look()
            with self.folder.locked():
                if self.folder.published_file() != self._file:
                    # Another training has published one since. Scoring it may take minutes: not under the lock.
                    continue
                if not model.score >= (-math.inf if self.score is None else self.score):
                    return False
                self.folder.publish(model)
                self._file = self.folder.published_file()
            self.run, self.score = model.run, model.score
            return True


def fitting_model(folder: ModelFolder, scheme: LabelScheme, channels: int, options: PlanOptions) -> Model | None:
    """Return the published model, as *Run* uses it, if it does the same task."""
    if not folder.is_published():
        return None
    try:
        model = folder.load(scheme, channels)
        return replace(model, plan=model.plan.with_statistics(options))
    except InputError:
        return None
