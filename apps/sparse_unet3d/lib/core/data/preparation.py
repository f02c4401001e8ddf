"""Turn a volume into the network's input, in the same way for training, validation and inference."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.errors import InputError
from lib.core.plan.plan import Plan
from lib.core.volumes.intensity import scaled
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image that is ready for the network.

    Attributes:
        name: what messages call it.
        image: (C, *working) float32 in 0 … 1.
        grid: the volume's own grid and the working grid.
        outside: (*native) the voxels that were not recorded, which are background; None if there are none.
    """

    name: str
    image: Tensor
    grid: WorkingGrid
    outside: NDArray[np.bool_] | None

    @classmethod
    def of(cls, volume: Volume, plan: Plan) -> "PreparedImage":
        """Prepare a volume.

        Raises:
            InputError: as ``prepare_image``.
        """
        return cls(volume.name, *prepare_image(volume, plan), volume.outside)


def prepare_image(volume: Volume, plan: Plan) -> tuple[Tensor, WorkingGrid]:
    """Turn a volume into the network's input.

    Returns:
        (C, *working) float32 in 0 … 1, and the working grid.

    Raises:
        InputError: the volume has another number of channels than the plan.
    """
    check_channels(volume.channels, plan)
    grid = WorkingGrid.of(volume.shape, volume.spacing, plan.spacing)
    return torch.as_tensor(grid.image(scaled(volume.array, volume.ranges))), grid


def check_channels(channels: int, plan: Plan) -> None:
    """Refuse an image with another number of channels than the plan.

    Raises:
        InputError: names both numbers.
    """
    if channels != plan.channels:
        raise InputError(
            f"the image has {channels} channel(s), the model was trained on {plan.channels}; "
            "choose images recorded in the same way, or train a model on these"
        )
