"""Fixtures for tests of training."""

from dataclasses import replace

import pytest

from lib.core.plan.planning import make_plan
from lib.core.training import run as training


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of 3 steps instead of 10, for tests of a run's stages, not of what it learns."""
    monkeypatch.setattr(training, "make_plan", lambda *given: replace(make_plan(*given), steps_per_epoch=3))
