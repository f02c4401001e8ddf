"""An image of which each box is prepared for the network when it is wanted."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.plan.plan import Plan
from lib.core.volumes.boxes import boxes, grown
from lib.core.volumes.intensity import scaled
from lib.core.volumes.source import Box
from lib.core.volumes.stored_volume import StoredVolume
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid

from .preparation import check_channels

AT_ONCE = 1 << 24
"""Most voxels that are read at once for an image that is then held as a whole."""


class LargeImage:
    """An image that is prepared box by box; its voxels are those of ``PreparedImage``.

    It is what the ``Image`` that tiles are cut from may be: ``shape`` is (C, *working), and ``image[:, x, y, z]`` with
    slices is a box of it, float32 in 0 … 1.

    Attributes:
        volume: the image, in memory or in its file.
        name: what messages call it.
        grid: the volume's own grid and the working grid.
    """

    def __init__(self, volume: Volume | StoredVolume, plan: Plan, held: Tensor | None = None) -> None:
        """Prepare nothing yet.

        Args:
            volume: the image.
            plan: the plan that it is prepared by.
            held: ``whole()`` of it, if that is in memory.

        Raises:
            InputError: another number of channels than the plan.
        """
        check_channels(volume.channels, plan)
        self.volume, self.name, self._held = volume, volume.name, held
        self.grid = WorkingGrid.of(volume.shape, volume.spacing, plan.spacing)
        self.shape = (volume.channels, *self.grid.working)

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Prepare a box (C, *box) of working voxels.

        Raises:
            InputError: damaged.
        """
        if self._held is not None:
            return self._held[box]
        _, x, y, z = box
        return torch.as_tensor(self.grid.image_box(self._scaled, (x, y, z)))

    def outside(self, box: Box) -> NDArray[np.bool_] | None:
        """Return which voxels of a box of the volume were not recorded (NaN in all channels); None if none can be."""
        return self.volume.outside_in(box)

    def whole(self) -> Tensor:
        """Prepare all of it, (C, *working), in little more memory than that takes."""
        image = torch.empty(self.shape)
        x, y, z = self.grid.working
        most = AT_ONCE * math.prod(self.grid.working) // math.prod(self.grid.native)
        for box in boxes((x, y, z), grown((1, 1, 1), (x, y, z), most)):
            place = (slice(None), *box)
            image[place] = self[place]
        return image

    def _scaled(self, box: Box) -> NDArray[np.float32]:
        return scaled(self.volume.read(box), self.volume.ranges)
