"""Segmentation of an OME-Zarr image of any size: box by box, from its folder into another one."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.core.colours import colours
from lib.core.data.large_image import LargeImage
from lib.core.device.machine import Machine
from lib.core.volumes.boxes import boxes
from lib.core.volumes.growing_labels import CHUNK, GrowingLabels
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.source import Box
from lib.core.volumes.working_grid import WorkingGrid

from .segmenter import Segmenter

MEMORY = 1_700_000_000
"""Most bytes of the computer's memory for a box. With more, boxes are larger and less is computed twice, but not by
much."""

MOST = 1 << 27
"""Most voxels of a box, so that an interruption loses minutes, not hours."""


def segment_large(
    segmenter: Segmenter,
    source: OmeZarrSource,
    place: Path,
    machine: Machine,
    made_from: Any,
    progress: Callable[[str, float], None],
) -> dict[int, int]:
    """Segment an image into a label image, or go on with it.

    Args:
        segmenter: of the network.
        source: the image.
        place: where the label image goes, ``NAME.ome.zarr``.
        machine: what to compute on.
        made_from: a JSON value that says what the result depends on. If it has changed, the work begins again.
        progress: called with what is done at the moment and the fraction done.

    Returns:
        How many voxels have each value.

    Raises:
        InputError: another number of channels than the plan, or damaged; names the chunk. What is done is kept.
        OSError: the label image can't be written. What is done is kept.
    """
    shape, spacing = source.geometry.shape, source.geometry.spacing
    grid = WorkingGrid.of(shape, spacing, segmenter.plan.spacing)
    if machine.device != "cuda":
        machine = machine.within(MEMORY)
    sides = _choose_sides(grid, segmenter.box_costs(grid, machine), machine.memory)
    labels = GrowingLabels(place, source, made_from, {"sides": sides})
    if labels.voxels is None:
        scheme = segmenter.plan.scheme
        names = {0: scheme.background, **dict(enumerate(scheme.foreground, start=1))}
        shown = {value: (r, g, b) for value, (r, g, b) in enumerate(colours(scheme)[:-1].tolist()) if value}
        labels.begin(names, shown)
        every = list(boxes(shape, tuple(labels.settings["sides"])))
        waiting = [box for box in every if not labels.is_done(box)]
        done = math.prod(shape) - sum(map(_size, waiting))

        def write(box: Box, found: Any) -> None:
            nonlocal done
            labels.write(box, found)
            done += _size(box)
            progress("segmenting", done / math.prod(shape))

        if waiting:
            image = LargeImage(source, segmenter.plan, lambda fraction: progress("reading intensities", fraction))
            progress("segmenting", done / math.prod(shape))
            segmenter.segment_boxes(image, waiting, machine, write)
    labels.finish()
    assert labels.voxels is not None
    return labels.voxels


def _choose_sides(
    grid: WorkingGrid, costs: Callable[[Sequence[int]], tuple[int, int]], memory: int
) -> tuple[int, int, int]:
    """Choose the sides of the boxes so that the network sees the fewest voxels for each voxel that is segmented.

    Args:
        grid: of the image.
        costs: see ``Segmenter.box_costs``.
        memory: bytes that a box may take.
    """
    along = [[CHUNK * number for number in range(1, -(-size // CHUNK) + 1)] for size in grid.native]
    best, least = (CHUNK, CHUNK, CHUNK), (math.inf, math.inf)
    for x, y, z in itertools.product(*along):
        if x * y * z > MOST:
            continue
        sides = [min(side, size) for side, size in zip((x, y, z), grid.native, strict=True)]
        taken, seen = costs(sides)
        cost = max(taken, memory), seen / math.prod(sides)
        if cost < least:
            best, least = (x, y, z), cost
    return best


def _size(box: Box) -> int:
    return math.prod(side.stop - side.start for side in box)
