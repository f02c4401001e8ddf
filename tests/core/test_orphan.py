"""A process that imports for long ends with the one that started it."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from project import APP
from serving import is_alive

PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
print(child.pid, flush=True)
input()
"""

CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from lib.core.orphan import end_with_parent, outlive_parent
end_with_parent(int(sys.argv[1]))
{}
open("ready", "w").close()
time.sleep(600)
"""


@pytest.mark.parametrize("outlives", [False, True])
def test_a_process_ends_with_its_parent_unless_it_looks_after_itself(tmp_path: Path, outlives: bool) -> None:
    child = CHILD.format("outlive_parent()" if outlives else "")
    command = [sys.executable, "-c", PARENT, child, str(APP)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        assert parent.stdout
        process = psutil.Process(int(parent.stdout.readline()))
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        assert is_alive(process)
        parent.kill()
    if outlives:
        time.sleep(2)
        assert is_alive(process)
        process.kill()
    while is_alive(process):
        time.sleep(0.05)
