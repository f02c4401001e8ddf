"""Two processes in which tests train together, as torchrun starts them. They compute on the processor."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import torch

from lib.core.training.ranks import joined

SECONDS = 240.0
"""How long a call may take. Ranks that disagree wait for each other until then."""


class Died(Exception):
    """A process has ended, or waits, without a result."""


class TwoRanks:
    """Two processes, kept for several calls, since their imports take most of a test's time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._started = []
        for _ in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._started.append((process, ours))

    def __call__(self, work: Callable[..., Any], *arguments: Any, **environment: str) -> list[Any]:
        """Call ``work(ranks, *arguments)``, a function of a module, in both processes with these environment variables.

        Returns:
            By rank, what it returned, or the exception that it raised; ``Died`` without either.
        """
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for rank, (_, pipe) in enumerate(self._started):
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            pipe.send((work, arguments, {**variables, **address, **environment}))
        return [_outcome(pipe) for _, pipe in self._started]

    def end(self) -> None:
        for process, _ in self._started:
            process.kill()


def _outcome(pipe: Connection) -> Any:
    try:
        return pipe.recv() if pipe.poll(SECONDS) else Died("it waits")
    except (EOFError, ConnectionError):
        return Died("it has ended")


def _serve(pipe: Connection) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    while True:
        work, arguments, environment = pipe.recv()
        pipe.send(_call(work, arguments, environment))


def _call(work: Callable[..., Any], arguments: tuple[Any, ...], environment: Mapping[str, object]) -> Any:
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in environment.items()})
    try:
        with joined() as ranks:
            torch.set_num_threads(1)
            return work(ranks, *arguments)
    except Exception as error:
        return error
    finally:
        os.environ.clear()
        os.environ.update(before)
