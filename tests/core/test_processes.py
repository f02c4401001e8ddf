import os
import subprocess
import sys

import pytest

from lib.core.processes import has_ended, this_process
from project import APP

NAME = "import sys; sys.path.insert(0, sys.argv[1]); from lib.core.processes import this_process as p; print(p())"


def test_a_process_that_lives_and_one_that_has_ended() -> None:
    assert has_ended(f"{this_process()}-1f.nii.gz") is False
    name = subprocess.run([sys.executable, "-c", NAME, APP], capture_output=True, text=True, check=True).stdout.strip()
    assert has_ended(name) is True
    host, _, started = name.split("-")
    # Its number was given to another process: this one, or one that began later.
    for other in (os.getpid(), os.getppid()):
        assert has_ended(f"{host}-{other}-{int(started) - 10**7}") is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only there processes wait to be buried")
def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", NAME, APP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        name = process.stdout.read().strip()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(name) is True


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux may begin a container")
def test_a_process_in_another_container_of_the_same_host_name_is_unknown() -> None:
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", NAME, str(APP)]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert name.split("-")[0] != this_process().split("-")[0]
    assert has_ended(name) is None


@pytest.mark.parametrize("name", ["", "x", "00000000-1-1", "abc", f"{0:08x}-99999999999-1"])
def test_names_of_other_computers_and_others_are_unknown(name: str) -> None:
    assert has_ended(name) is None
