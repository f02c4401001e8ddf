"""Segmentation of an OME-Zarr image of any size: box by box, from its folder into another one."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lib.core.colours import colours
from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import check_channels
from lib.core.device.machine import Machine
from lib.core.labels import LabelScheme
from lib.core.volumes.boxes import boxes
from lib.core.volumes.growing_labels import CHUNK, GrowingLabels
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.source import Box
from lib.core.volumes.stored_volume import StoredVolume
from lib.core.volumes.working_grid import WorkingGrid

from .segmenter import Segmenter, for_large_images

MOST = 1 << 27
"""Most voxels of a box, so that an interruption loses minutes, not hours."""

Done = Callable[[Box, dict[int, int]], None]
"""Called with a box that is written, and how many of its voxels have each value."""


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
    machine = for_large_images(machine)
    check_channels(source.geometry.channels, segmenter.plan)

    def segment(waiting: Sequence[Box], done: Done) -> None:
        volume = StoredVolume(source, lambda fraction: progress("reading intensities", fraction))
        image = LargeImage(volume, segmenter.plan)
        segmenter.segment_boxes(image, waiting, machine, lambda box, found: done(box, labels.write(box, found)))

    labels = GrowingLabels(place, source, made_from, {"sides": choose_sides(segmenter, source, machine, MOST, 1)})
    return grow(labels, segmenter.plan.scheme, segment, progress)


def grow(
    labels: GrowingLabels,
    scheme: LabelScheme,
    segment: Callable[[Sequence[Box], Done], None],
    progress: Callable[[str, float], None],
) -> dict[int, int]:
    """Complete a label image, unless it is complete.

    Args:
        labels: the label image; its settings have the ``sides`` of the boxes.
        scheme: of the values.
        segment: segments and writes the boxes that are missing, and calls its second argument after each.
        progress: called with what is done at the moment and the fraction done.

    Returns:
        How many voxels have each value.

    Raises:
        OSError: the label image can't be written. What is done is kept.
    """
    if labels.voxels is None:
        names = {0: scheme.background, **dict(enumerate(scheme.foreground, start=1))}
        shown = {value: (r, g, b) for value, (r, g, b) in enumerate(colours(scheme)[:-1].tolist()) if value}
        labels.begin(names, shown)
        shape = labels.source.geometry.shape
        waiting = [box for box in boxes(shape, tuple(labels.settings["sides"])) if not labels.is_done(box)]
        missing = sum(map(_size, waiting))

        def note(box: Box, voxels: dict[int, int]) -> None:
            nonlocal missing
            labels.note(box, voxels)
            missing -= _size(box)
            progress("segmenting", 1 - missing / math.prod(shape))

        if waiting:
            progress("segmenting", 1 - missing / math.prod(shape))
            segment(waiting, note)
    labels.finish()
    assert labels.voxels is not None
    return labels.voxels


def choose_sides(
    segmenter: Segmenter, source: OmeZarrSource, machine: Machine, most: int, workers: int
) -> tuple[int, int, int]:
    """Choose the sides of the boxes so that the network sees the fewest voxels, or sees them in the shortest time.

    Args:
        segmenter: of the network.
        source: the image.
        machine: what to compute on.
        most: voxels of a box, at most.
        workers: how many boxes are segmented at the same time.
    """
    grid = WorkingGrid.of(source.geometry.shape, source.geometry.spacing, segmenter.plan.spacing)
    costs = segmenter.box_costs(grid, machine)
    along = [[CHUNK * number for number in range(1, -(-size // CHUNK) + 1)] for size in grid.native]
    best, least = (CHUNK, CHUNK, CHUNK), (math.inf, math.inf)
    for x, y, z in itertools.product(*along):
        sides = [min(side, size) for side, size in zip((x, y, z), grid.native, strict=True)]
        if math.prod(sides) > most:
            continue
        taken, seen = costs(sides)
        # Boxes at the image's end are smaller, which counts only where nobody waits for the larger ones.
        turns = math.prod(grid.native) / math.prod(sides)
        if workers > 1:
            count = math.prod(-(-size // side) for size, side in zip(grid.native, sides, strict=True))
            turns = math.ceil(count / workers)
        cost = max(taken, machine.memory), seen * turns
        if cost < least:
            best, least = (x, y, z), cost
    return best


def _size(box: Box) -> int:
    return math.prod(side.stop - side.start for side in box)
