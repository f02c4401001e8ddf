import subprocess
import sys
from dataclasses import asdict, replace

import psutil
import pytest

from lib.core.owner import Owner


def test_an_owner_runs_until_its_process_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = Owner(**asdict(Owner.of(process.pid)))
        assert owner.has_ended() is False
        assert owner.running() == psutil.Process(process.pid)
        assert str(owner).startswith(f"process {process.pid} on ")
    assert owner.has_ended() is True
    assert owner.running() is None
    with pytest.raises(psutil.NoSuchProcess):
        Owner.of(process.pid)


def test_of_a_process_elsewhere_nothing_is_known() -> None:
    here = Owner.of(psutil.Process().pid)
    assert here.is_here()
    owner = replace(here, process=f"{0:08x}{here.process[8:]}")
    assert not owner.is_here()
    assert owner.has_ended() is None
    assert owner.running() is None
