"""What all commands have in common, tested from outside."""

import subprocess
import sys

from project import APP

FORK_AFTER_A_COMMAND = """
import os, runpy, signal, sys

try:
    runpy.run_path(sys.argv[1], run_name="__main__")
except SystemExit:
    pass
ready, tell = os.pipe()
child = os.fork()
if not child:
    signal.alarm(60)
    os.write(tell, b"1")
    while True:
        try:
            signal.pause()
        except KeyboardInterrupt:
            pass
os.read(ready, 1)
os.kill(child, signal.SIGTERM)
assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
"""


def test_a_process_forked_from_a_command_ends_on_sigterm() -> None:
    """Even one that survives Ctrl-C, as those of ``multiprocessing.Pool`` may."""
    done = subprocess.run(
        [sys.executable, "-c", FORK_AFTER_A_COMMAND, str(APP)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
