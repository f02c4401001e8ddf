"""A trained network with its plan, and its file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib.core.annotation.split import SliceSplit
from lib.core.device.machine import is_out_of_memory
from lib.core.errors import InputError
from lib.core.files import replacing
from lib.core.labels import LabelScheme
from lib.core.plan.plan import Plan

from .origin import Origin

FORMAT = 1
"""Version of the model file's content."""


def build_network(plan: Plan, padded: bool = False) -> nn.Module:
    """Return the untrained network that a plan describes; ``padded`` as in ``Architecture.build``."""
    return plan.architecture.build(
        plan.channels, len(plan.scheme.classes), plan.width, plan.dims, plan.batch_norm, padded
    )


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network and what is known about it.

    Attributes:
        network: on the CPU.
        plan: the plan by which it was trained.
        split: the annotated slices that it was trained on, and those held out.
        score: mean foreground IoU in 0 … 1 on ``metric``'s slices when it was published.
        metric: ``validation IoU``, or ``training IoU`` where there were too few slices to hold any out.
        run: identifies the training run, by the time it started.
        epoch: the epoch after which its weights were taken.
        precision: floating point format in which it was scored, and in which it segments if the device supports it.
        origin: what it was made from; None in files of earlier versions of this software.
    """

    network: nn.Module
    plan: Plan
    split: SliceSplit
    score: float
    metric: str
    run: str
    epoch: int
    precision: torch.dtype = torch.float32
    origin: Origin | None = None

    def save(self, path: Path) -> None:
        """Write the model file, renamed into place."""
        content = {
            "format": FORMAT,
            "network": self.network.state_dict(),
            "plan": self.plan.to_json(),
            "split": self.split.to_json(),
            "score": self.score,
            "metric": self.metric,
            "run": self.run,
            "epoch": self.epoch,
            "precision": self.precision,
            "origin": self.origin and self.origin.to_json(),
        }
        with replacing(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: Path) -> "Model":
        """Read a model file.

        Raises:
            InputError: the file is missing, unreadable or of another format.
        """
        content = load_content(path)
        try:
            plan = Plan.from_json(content["plan"])
            network = build_network(plan)
            network.load_state_dict(content["network"])
            return cls(
                network=network.eval(),
                plan=plan,
                split=SliceSplit.from_json(content["split"]),
                score=content["score"],
                metric=content["metric"],
                run=content["run"],
                epoch=content["epoch"],
                precision=content.get("precision", torch.float32),
                origin=Origin.from_json(content["origin"]) if content.get("origin") else None,
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: the model file is incomplete ({error}); remove it and train again") from error


def load_content(path: Path) -> Mapping[str, Any]:
    """Read a file that ``torch.save`` wrote, tensors on the CPU.

    Raises:
        InputError: the file is missing, unreadable or of another format.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such model file; train a model first")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        # The disk is at fault, not the file.
        raise
    # A broken file makes torch raise errors of many unrelated kinds.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise InputError(f"{path}: cannot be read as a model file ({error}); remove it and train again") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: model file format {found}, expected {FORMAT}; train again with this version")
    result: Mapping[str, Any] = content
    return result


def load_with_digest(path: Path) -> tuple[Model, str]:
    """Read a model file, once in each process and each time that it was written.

    Returns:
        The model, and the SHA-256 of its file.

    Raises:
        InputError: see ``Model.load``.
        OSError: the file can't be read.
    """
    return _load_version(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _load_version(path: Path, _: int) -> tuple[Model, str]:
    return Model.load(path), hashlib.sha256(path.read_bytes()).hexdigest()


def check_fit(path: Path, plan: Plan, scheme: LabelScheme, channels: int | None = None) -> None:
    """Refuse a model that doesn't fit the server's classes or an image's channels.

    Args:
        path: of the model file, for the message.
        plan: the model's.
        scheme: the server's.
        channels: of the image, if there is one.

    Raises:
        InputError: another label scheme or number of channels; names the file and both values.
    """
    if plan.scheme != scheme:
        raise InputError(
            f"{path}: the model was trained for {plan.scheme.describe()}, "
            f"the server is configured for {scheme.describe()}; start the "
            "server with the model's classes (--conf labels, --conf background) or another --conf models"
        )
    if channels is not None and plan.channels != channels:
        raise InputError(
            f"{path}: the model takes images of {plan.channels} channel(s), this one has {channels}; "
            "choose images recorded in the same way, or train a model on these"
        )
