"""Which of a run's models are published."""

from pathlib import Path

import numpy as np

from lib.core.annotation.split import SliceSplit
from lib.core.device.machine import Machine
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model, build_network
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.training.publishing import Publisher
from lib.core.training.score import Score

SCHEME = LabelScheme(("cell",), "outside")
PLAN = Plan(SCHEME, 1, None, width=2, tile=(92, 92, 92))


def test_small_losses_do_not_add_up(tmp_path: Path) -> None:
    """Each model is credibly as good as the one before it, but the last one isn't as good as the first."""
    folder = ModelFolder(tmp_path)
    publisher = Publisher(folder, SCHEME, 1, PlanOptions(width=2), Machine("cpu", 10**9), lambda _: [], lambda: None)

    def offered(epoch: int, missed: list[int]) -> bool:
        score = Score(np.array([[[100, 0], [n, 100 - n]] for n in missed]), SCHEME)
        model = Model(build_network(PLAN).eval(), PLAN, SliceSplit({}, {}), score.mean, "validation IoU", "a", epoch)
        return publisher.offer(model, score)

    assert offered(1, [10] * 10)
    assert offered(2, [12] * 2 + [10] * 8)
    assert offered(3, [12] * 2 + [10] * 8)
    assert not offered(4, [12] * 4 + [10] * 6)
    assert folder.load(SCHEME).epoch == 3
    assert publisher.score is not None
    assert publisher.score.mean == folder.load(SCHEME).score
    # Later ones may win back what was lost.
    assert offered(5, [9] * 10)
    assert not offered(6, [11] * 10)
    assert folder.load(SCHEME).epoch == 5
