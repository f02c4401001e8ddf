"""The short forms of ``python -m torture crowd`` and ``soak``, with a real server."""

from pathlib import Path

import pytest

from torture import crowd, soak
from torture.annotator import Submission, order_faults


@pytest.mark.slow
def test_a_small_crowd_loses_nothing(tmp_path: Path) -> None:
    outcome = crowd.measure(tmp_path, clients=5, submissions=20, timed=False)
    assert not outcome.faults
    assert outcome.facts["submissions"] == 21
    assert outcome.facts["trainings"] >= 1


@pytest.mark.slow
def test_a_short_soak_leaves_nothing(tmp_path: Path) -> None:
    outcome = soak.measure(tmp_path, seconds=10, timed=False)
    assert not outcome.faults
    assert sum(outcome.facts["requests"].values()) > 3


def test_versions_out_of_order_are_seen() -> None:
    first, second = Submission("a", 1, 0.0, 1.0), Submission("a", 2, 2.0, 3.0)
    assert not order_faults([second, first])
    # At the same time, any order is right.
    assert not order_faults([Submission("a", 2, 0.0, 3.0), Submission("a", 1, 2.0, 3.0)])
    assert order_faults([Submission("a", 2, 0.0, 1.0), Submission("a", 1, 2.0, 3.0)])
    assert not order_faults([Submission("b", 2, 0.0, 1.0), Submission("a", 1, 2.0, 3.0)])
