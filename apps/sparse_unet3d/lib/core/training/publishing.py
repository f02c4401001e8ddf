"""Publishing: a model is never replaced by one that is credibly worse on the same voxels, whoever published it."""

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
from .score import Score


class Publisher:
    """Publishes the models of a run unless they are worse than the published one as it stands on disk.

    Of two models that held-out slices can't tell apart, the one that has learnt longer in its run is usually better
    elsewhere. It is therefore published, or stays. So that small losses don't add up, a model must not be credibly
    worse than any that was published since this run began, either. Other trainings may publish at any time, and people
    may put back an archived model; then only that one counts.
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
        self.score: Score | None = None
        self._epoch = 0
        self._best: Score | None = None

    def look(self) -> None:
        """Read and score the published model if it is another one than before.

        Afterwards ``run`` and ``score`` are its own, or None if there is none that does the same task.
        """
        file = self.folder.published_file()
        if file == self._file:
            return
        self.run = self.score = None
        if model := fitting_model(self.folder, self.scheme, self.channels, self.options):
            # It is scored again, since annotations may have changed since it was published.
            regions = self.regions(model.plan)
            self.score = score_network(
                model.network, model.plan, model.precision, regions, self.machine, self.raise_if_stopping
            )
            self.run, self._epoch = model.run, model.epoch
        self._best = self.score
        self._file = file

    def offer(self, model: Model, score: Score) -> bool:
        """Publish a model unless the published one is better; tell which.

        Args:
            model: the model.
            score: of it.
        """
        while True:
            self.look()
            with self.folder.locked():
                if self.folder.published_file() != self._file:
                    # Another training has published one since. Scoring it may take minutes: not under the lock.
                    continue
                if self._is_better(model, score):
                    return False
                self.folder.publish(model)
                self._file = self.folder.published_file()
            self.run, self.score, self._epoch = model.run, score, model.epoch
            self._best = max((self._best, score), key=lambda one: one.mean) if self._best else score
            return True

    def _is_better(self, model: Model, score: Score) -> bool:
        """Return whether the published model is better than another one."""
        if self.score is None or self._best is None:
            return False
        if model.epoch < self._epoch:
            return score.mean < self.score.mean
        return score.is_credibly_worse_than(self.score) or score.is_credibly_worse_than(self._best)


def fitting_model(folder: ModelFolder, scheme: LabelScheme, channels: int, options: PlanOptions) -> Model | None:
    """Return the published model, as *Run* uses it, if it does the same task."""
    if not folder.is_published():
        return None
    try:
        model = folder.load(scheme, channels)
        return replace(model, plan=model.plan.with_statistics(options))
    except InputError:
        return None
