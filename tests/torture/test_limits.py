"""The short forms of ``python -m torture limits`` and ``bombs``, with a real server."""

from pathlib import Path

import pytest

from lib.core.errors import InputError
from torture import bombing, limits


@pytest.mark.slow
def test_a_limited_server_loses_nothing(tmp_path: Path) -> None:
    try:
        outcome = limits.measure(tmp_path, levels=3, large=False)
    except InputError as error:
        pytest.skip(str(error))
    assert not outcome.faults
    assert outcome.facts["answers"]["full disk: 507"] >= 1
    assert outcome.facts["answers"]["read-only: 507"] == 1


@pytest.mark.slow
def test_some_bombs_are_refused(tmp_path: Path) -> None:
    outcome = bombing.measure(tmp_path, ["inflates to 2 GB.nii.gz", "line skip.nrrd"], timed=False)
    assert not outcome.faults
