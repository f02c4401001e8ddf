"""Which of a run's models are published."""

from pathlib import Path

import numpy as np
import pytest

from lib.core.annotation.split import SliceSplit
from lib.core.device.machine import Machine
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model, build_network
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.training import publishing
from lib.core.training.publishing import Publisher
from lib.core.training.score import Score

SCHEME = LabelScheme(("cell",), "outside")
PLAN = Plan(SCHEME, 1, None, width=2, tile=(92, 92, 92))


def scored(run: str, epoch: int, missed: list[int]) -> tuple[Model, Score]:
    """A model, and its score on units of 100 voxels of each class, of which it misses some of the cell's."""
    score = Score(np.array([[[100, 0], [n, 100 - n]] for n in missed]), SCHEME)
    return Model(build_network(PLAN).eval(), PLAN, SliceSplit({}, {}), score.mean, "validation IoU", run, epoch), score


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """A publisher into an empty folder. Models have no images to be scored on: tests say their scores."""
    return Publisher(
        ModelFolder(tmp_path), SCHEME, 1, PlanOptions(width=2), Machine("cpu", 10**9), lambda _: [], lambda: None
    )


def test_small_losses_do_not_add_up(publisher: Publisher) -> None:
    """Each model is credibly as good as the one before it, but the last one isn't as good as the first."""

    def offered(epoch: int, missed: list[int]) -> bool:
        return publisher.offer(*scored("a", epoch, missed))

    assert offered(1, [10] * 10)
    assert offered(2, [12] * 2 + [10] * 8)
    assert offered(3, [12] * 2 + [10] * 8)
    assert not offered(4, [12] * 4 + [10] * 6)
    assert publisher.folder.load(SCHEME).epoch == 3
    assert publisher.score is not None
    assert publisher.score.mean == publisher.folder.load(SCHEME).score
    # Later ones may win back what was lost.
    assert offered(5, [9] * 10)
    assert not offered(6, [11] * 10)
    assert publisher.folder.load(SCHEME).epoch == 5


def test_the_model_of_another_run_is_replaced_by_a_better_one_or_one_that_has_learnt_as_long(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, its_score = scored("earlier", 20, [10] * 10)
    monkeypatch.setattr(publishing, "score_network", lambda *_: its_score)
    publisher.folder.publish(earlier)
    nearly = [12] * 2 + [10] * 8
    assert not publisher.offer(*scored("a", 19, nearly))
    assert publisher.offer(*scored("a", 20, nearly))
    # Losses don't add up beginning with the published model.
    assert not publisher.offer(*scored("a", 21, [12] * 4 + [10] * 6))

    # Somebody puts the earlier model back.
    publisher.folder.publish(earlier)
    assert not publisher.offer(*scored("a", 19, nearly))
    assert publisher.offer(*scored("a", 3, [10] * 9 + [9]))


def test_after_a_poorer_model_is_put_back_only_that_one_counts(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publisher.offer(*scored("a", 1, [10] * 10))
    poor, its_score = scored("poor", 1, [40] * 10)
    monkeypatch.setattr(publishing, "score_network", lambda *_: its_score)
    publisher.folder.publish(poor)
    assert publisher.offer(*scored("a", 2, [30] * 10))
