"""Several processes that train one network together, each on tiles of its own: PyTorch's distributed data parallel.

Each process, a *rank*, makes every step. The gradient of a step is the mean over the ranks' tiles, so all ranks have
the same weights after it. Rank 0 decides: what to hold out, what to publish, when to end.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from lib.core.device.machine import Machine, default_device
from lib.core.errors import InputError, Stopped

PATIENCE = timedelta(hours=6)
"""How long ranks wait for each other, since rank 0 may score a model for long. They notice the end of a rank's process
at once; this limit is for computers that vanish from the network."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which a process sees some of the NVIDIA GPUs only."""

_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
"""torchrun's environment variables, with their values for one process."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
        local: how many of them share this computer.
    """

    rank: int = 0
    count: int = 1
    local: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return what to call in training steps: the network, with gradients that are means over all ranks.

        All ranks then have the weights of rank 0. Batch normalisation still uses each tile's own statistics.
        """
        return network if self.count == 1 else DistributedDataParallel(network, forward_sync_buffers=False)

    def share_of(self, machine: Machine) -> Machine:
        """Return this rank's share of a machine: the processor's memory is divided among the ranks of this computer."""
        if machine.device != "cpu":
            return replace(machine, fallback=machine.fallback and self.share_of(machine.fallback))
        return replace(machine, memory=machine.memory // self.local)

    def by_first(self, work: Callable[[], Result]) -> Result:
        """Let rank 0 work while the others wait.

        Returns:
            What rank 0 has found, on all ranks.

        Raises:
            InputError, Stopped: ``work`` raised it; on all ranks.
        """
        if self.count == 1:
            return work()
        outcome: list[Result | Exception | None] = [None]
        if self.is_first:
            try:
                outcome = [work()]
            except (InputError, Stopped) as error:
                outcome = [error]
        distributed.broadcast_object_list(outcome)
        (found,) = outcome
        if isinstance(found, InputError | Stopped):
            raise found
        return found  # type: ignore[return-value]

    def agree(self, raise_if_stopping: Callable[[], None], progress: float) -> float:
        """Return rank 0's progress on all ranks, unless one of them is to stop.

        Args:
            raise_if_stopping: raises ``Stopped`` if this rank is to stop.
            progress: of this rank, 0 … 1.

        Raises:
            Stopped: a rank is to stop; on all ranks.
        """
        if self.count == 1:
            raise_if_stopping()
            return progress
        is_stopping = False
        try:
            raise_if_stopping()
        except Stopped:
            is_stopping = True
        told = torch.tensor([is_stopping, progress if self.is_first else 0.0], dtype=torch.float64)
        distributed.all_reduce(told, distributed.ReduceOp.MAX)
        if told[0]:
            raise Stopped("the training was stopped, since one of its processes is to end")
        return float(told[1])

    def all_have(self, value: str) -> bool:
        """Tell whether all ranks call this with the same value."""
        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value)
        return len(set(values)) == 1


ALONE = Ranks()
"""One process, as without torchrun."""


def own_gpu(local_rank: int, visible: str | None) -> str:
    """Return the value of ``CUDA_VISIBLE_DEVICES`` with which a rank sees its own GPU only, or none.

    Args:
        local_rank: number of the rank among those on this computer.
        visible: the value that all of them have; None if the variable isn't set, and all GPUs can be seen.
    """
    if visible is None:
        return str(local_rank)
    names = visible.split(",")
    return names[local_rank] if local_rank < len(names) else "-1"


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun has started, as its environment variables say; ``ALONE`` if there are no others.

    On a computer with NVIDIA GPUs, each rank sees only its own: call this before anything uses a GPU.

    Raises:
        InputError: the ranks have different devices, or their device can't train by several processes.
    """
    environment = os.environ
    rank, count, local_rank, local = (int(environment.get(name, default)) for name, default in _VARIABLES.items())
    if count == 1:
        yield ALONE
        return
    ranks = Ranks(rank, count, local)
    environment[VISIBLE] = own_gpu(local_rank, environment.get(VISIBLE))
    # torchrun leaves one thread to each process, however many cores there are.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    device = default_device()
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        if device == "mps" or not ranks.all_have(device):
            raise InputError(
                f"training: process {rank} of {count} would compute on {device}; start one process for each "
                "NVIDIA GPU, or any number on processors alone, and without torchrun on Apple's GPU"
            )
        yield ranks
    finally:
        distributed.destroy_process_group()
