"""Segmentation of one OME-Zarr image by several processes, which may be on several computers.

One of them reads the intensities and settles the statistics. Then each box is work for any of them: it reads the box
with the voxels around it, and writes its labels. The process that asks for all this, and that alone, notes which boxes
are done.
"""

import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import check_channels
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.model.model import load_with_digest
from lib.core.network.batch_norm import Moments
from lib.core.parallel import Workers
from lib.core.volumes.growing_labels import GrowingLabels
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.source import Box
from lib.core.volumes.stored_volume import StoredVolume, Surveyed

from . import large
from .segmenter import Segmenter, for_large_images


@dataclass(frozen=True)
class SharedImage:
    """An image that several processes segment.

    Attributes:
        model: file of the model.
        digest: the SHA-256 of that file.
        image: the folder of the image.
        wanted: chooses the level, see ``OmeZarrSource``.
        place: where the label image goes, ``NAME.ome.zarr``.
        made_from: see ``segment_large``.
        memory: bytes that a process may take; None for what is free.
        most: voxels of a box, at most.
        workers: how many processes there are.
    """

    model: Path
    digest: str
    image: Path
    wanted: tuple[float, ...] | None
    place: Path
    made_from: Any
    memory: int | None
    most: int
    workers: int

    def open(self) -> OmeZarrSource:
        """Open the image.

        Raises:
            InputError: it can't be used.
        """
        return OmeZarrSource(self.image, self.wanted)

    def labels(self, settings: dict[str, Any] | None = None) -> GrowingLabels:
        """Return the label image as it stands."""
        return GrowingLabels(self.place, self.open(), self.made_from, settings or {})

    def segmenter(self) -> Segmenter:
        """Read the model, once in each process.

        Raises:
            InputError: it isn't a model, or not this one.
        """
        model, digest = load_with_digest(self.model)
        if digest != self.digest:
            raise InputError(
                f"{self.model}: the file has changed since the command was started, or is another one on this "
                "computer; start the command again when the model is complete, and let all workers see the same files"
            )
        return Segmenter.of(model)


@dataclass(frozen=True)
class Settled:
    """What all boxes of an image have in common, found out once, so that their labels are those of the whole image.

    Attributes:
        image: what is segmented.
        surveyed: what scaling depends on.
        statistics: by which the network normalises.
        sides: of the boxes.
        token: tells this from any other.
    """

    image: SharedImage = field(compare=False)
    surveyed: Surveyed = field(compare=False)
    statistics: list[Moments] = field(compare=False)
    sides: tuple[int, int, int] = field(compare=False)
    token: str = field(default_factory=lambda: str(uuid.uuid4()))


def segment_shared(image: SharedImage, workers: Workers, progress: Callable[[str, float], None]) -> dict[int, int]:
    """Segment an image into a label image by several processes, or go on with it.

    Args:
        image: the image.
        workers: the processes. They see the same files under the same paths.
        progress: called with what is done at the moment and the fraction done.

    Returns:
        How many voxels have each value.

    Raises:
        InputError, OSError: see ``segment_large``. What is done is kept.
        WorkersLost: no process is left. What is done is kept.
    """
    labels, scheme = image.labels(), image.segmenter().plan.scheme
    if labels.voxels is not None:
        return large.grow(labels, scheme, lambda _waiting, _done: None, progress)
    progress("reading intensities", 0.0)
    ((_, settled),) = workers.each(settle, [image])
    if isinstance(settled, Exception):
        raise settled

    def segment(waiting: Sequence[Box], done: large.Done) -> None:
        with closing(workers.each(partial(segment_box, settled), waiting)) as outcomes:
            for box, outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                done(box, outcome)

    return large.grow(image.labels({"sides": settled.sides}), scheme, segment, progress)


def settle(image: SharedImage) -> Settled:
    """Find out what all boxes have in common; a worker does this.

    Raises:
        InputError: the image or the model can't be used.
    """
    source, segmenter = image.open(), image.segmenter()
    machine = for_large_images(this_machine(image.memory))
    check_channels(source.geometry.channels, segmenter.plan)
    volume = StoredVolume(source)
    opened = LargeImage(volume, segmenter.plan)
    statistics = segmenter.settled(opened, machine)
    sides = large.choose_sides(segmenter, source, machine, image.most, image.workers)
    return Settled(image, volume.surveyed, statistics, sides)


def segment_box(settled: Settled, box: Box) -> dict[int, int]:
    """Segment and write a box; a worker does this.

    Returns:
        How many of its voxels have each value.

    Raises:
        InputError: the image is damaged, or the label image has been begun again meanwhile.
        OSError: the box can't be written.
    """
    segmenter, image = _prepared(settled)
    found = dict[int, int]()

    def write(box: Box, labels: Any) -> None:
        # Opened only now: this may be a worker that nobody waits for any more.
        growing = settled.image.labels()
        growing.join()
        found.update(growing.write(box, labels))

    segmenter.segment_boxes(image, [box], for_large_images(this_machine(settled.image.memory)), write)
    return found


@lru_cache(maxsize=1)
def _prepared(settled: Settled) -> tuple[Segmenter, LargeImage]:
    segmenter = settled.image.segmenter()
    image = LargeImage(StoredVolume(settled.image.open(), surveyed=settled.surveyed), segmenter.plan)
    return segmenter.by_statistics(settled.statistics), image
