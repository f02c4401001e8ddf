"""Training on an image of a small bright ball."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.device.machine import Machine
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.report import TrainingReport
from lib.core.training.run import train
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("ball",), "outside")
SHAPE = (12, 12, 12)
MACHINE = Machine("cpu", 4 * 10**9)


def truth(centre: Sequence[float], shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    """Return the dense annotation of a volume with a ball: 1 inside, 2 outside."""
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.where(np.linalg.norm(x - np.asarray(centre), axis=-1) < 4, 1, 2).astype(np.uint8)


def case(name: str = "a", centre: Sequence[float] = (6, 6, 6), slices: Any = None, channels: int = 1) -> TrainingCase:
    """Return a noisy image of the ball, of which some slices, each (axis, index), are painted; by default nine."""
    dense = truth(centre)
    noise = np.random.default_rng(0).normal(0, 20, size=(channels, *SHAPE))
    image = (np.where(dense == 1, 200, 60) + noise).astype(np.float32)
    places = slices if slices is not None else [(axis, index) for axis in range(3) for index in (4, 6, 8)]
    return TrainingCase(
        name, Volume(image, np.eye(4)), keep_slices(dense, [AnnotatedSlice(*place) for place in places])
    )


def run(
    folder: Path,
    cases: Sequence[TrainingCase],
    reports: list[Any] | None = None,
    machine: Machine = MACHINE,
    **options: Any,
) -> TrainingReport:
    """Train a network of width 2, and return the last report; ``options`` are those of the training and of the plan."""
    heard: list[Any] = reports if reports is not None else []
    decided = PlanOptions(
        width=options.pop("width", 2),
        unpainted=options.pop("unpainted", "unlabelled"),
        spacing=options.pop("spacing", None),
        statistics=options.pop("statistics", None),
    )
    return train(cases, SCHEME, ModelFolder(folder), TrainingOptions(**options), decided, machine, heard.append)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the network in training, from the checkpoint."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)["network"]  # type: ignore[no-any-return]


class Killed(Exception):
    """Stands for a kill: nothing catches it."""
