"""A training job by several processes of this computer: the job's own is rank 0, and starts the others.

``core/training/ranks.py`` says how they train. torchrun isn't used, because it hands the standard input, by which a job
gets its order, to all processes, and gives nobody the standard output.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from lib.core.errors import InputError, Stopped
from lib.core.training.ranks import Ranks, joined

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).parents[3] / "child.py"


@contextmanager
def started(count: int, request: dict[str, Any], fail: Callable[[str], NoReturn]) -> Iterator[Ranks]:
    """Start the other processes of a training, and join them; with ``count`` 1, there are none.

    Call this before anything uses a GPU.

    Args:
        count: how many processes train, this one included.
        request: of the training.
        fail: ends this process and says why. It is called from a thread when another process has ended too early:
            this one would wait for it.
    """
    if count == 1:
        yield Ranks()
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    variables = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared = {name: str(value) for name, value in variables.items()}
    others = [_start(rank, {**os.environ, **shared}, request) for rank in range(1, count)]
    over = threading.Event()

    def watch(other: "subprocess.Popen[str]") -> None:
        if (status := other.wait()) and not over.is_set():
            fail(
                f"training has failed: one of its {count} processes has ended with status {status}; memory may be "
                "short; the server's log may say more"
            )

    for other in others:
        threading.Thread(target=watch, args=(other,), daemon=True).start()
    os.environ.update({**shared, "RANK": "0", "LOCAL_RANK": "0"})
    try:
        with joined() as ranks:
            yield ranks
    finally:
        over.set()
        for other in others:
            other.kill()


def _start(rank: int, environment: dict[str, str], request: dict[str, Any]) -> "subprocess.Popen[str]":
    other = subprocess.Popen(
        [sys.executable, str(PROGRAM), "lib.server.jobs.ranks", str(os.getpid())],
        stdin=subprocess.PIPE,
        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        encoding="utf-8",
    )
    assert other.stdin
    with other.stdin:
        other.stdin.write(json.dumps(request))
    return other


def main() -> NoReturn:
    """Train with rank 0, which reports, and decides when to end. ``child.py`` ends this process when that one ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    request = json.load(sys.stdin)
    logging.basicConfig(level=logging.WARNING)
    try:
        with joined() as ranks:
            train(ranks, request)
    except (InputError, Stopped):
        # Rank 0 has raised it, too, and says so.
        pass
    except BaseException:
        logger.exception("A process of a training has failed")
        os._exit(1)
    os._exit(0)


def train(ranks: Ranks, request: dict[str, Any]) -> Any:
    """Let the app train as one of several processes."""
    # It takes seconds to import, and looks for GPUs.
    from monailabel.interfaces.utils.app import app_instance

    app = app_instance()
    app.join(ranks)
    return app.train(request)
