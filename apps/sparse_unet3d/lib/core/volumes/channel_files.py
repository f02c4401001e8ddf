"""An image whose channels are in separate files, as one source."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .grids import describe_grid, is_same_grid
from .source import Box, VolumeSource, shape_of_box
from .volume import Geometry


class ChannelFiles:
    """Combines sources of one channel each into one source of several channels.

    Attributes:
        geometry: the grid of channel 0; its ``dtype`` can represent the values of all channels.
        notes: those of all sources.
    """

    def __init__(self, sources: Sequence[VolumeSource]) -> None:
        """Combine at least one source, in the order of the channels.

        Raises:
            InputError: a source has several channels, or isn't on the grid of channel 0.
        """
        first, last = sources[0].geometry, sources[-1].geometry
        for geometry in (source.geometry for source in sources):
            if geometry.channels != 1:
                raise InputError(
                    f"{geometry.name}: {geometry.channels} channels, but the files {_file_name(first)} to "
                    f"{_file_name(last)} are the channels of one image; expected one channel in each of these files, "
                    "or all channels in one file without a channel number"
                )
            if not is_same_grid(geometry, first):
                raise InputError(
                    f"{geometry.name}: the channel ({describe_grid(geometry.shape, geometry.affine)}) does not lie on "
                    f"the grid of {first.name} ({describe_grid(first.shape, first.affine)}); resample it onto that "
                    "grid, e.g. with 3D Slicer's Resample Scalar/Vector/DWI Volume"
                )
        self._sources = sources
        dtype = np.result_type(*(source.geometry.dtype for source in sources))
        self.notes = tuple(note for source in sources for note in source.notes)
        self.geometry: Geometry = replace(first, channels=len(sources), dtype=dtype, crop=None)

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, one source after the other.

        Raises:
            InputError: the voxels are damaged or inaccessible.
            MemoryError: there is not enough memory.
        """
        shape = shape_of_box(box, self.geometry.shape)
        array = np.empty((self.geometry.channels, *shape), self.geometry.dtype)
        for channel, source in zip(array, self._sources, strict=True):
            channel[...] = source.read(box)[0]
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the largest number of bytes of any source, since one channel is read at a time."""
        return max(source.working_memory(box) for source in self._sources)


def _file_name(geometry: Geometry) -> str:
    return Path(geometry.name).name
