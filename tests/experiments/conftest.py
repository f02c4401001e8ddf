"""Fixtures of the experiments' tests."""

import pytest

from lib.core.plan import planning
from lib.core.training import learner


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks be narrow, and take their statistics over few tiles, where a test doesn't ask what they learn."""
    monkeypatch.setattr(planning, "CPU_WIDTH", 2)
    monkeypatch.setattr(learner, "STATISTICS_TILES", 2)
