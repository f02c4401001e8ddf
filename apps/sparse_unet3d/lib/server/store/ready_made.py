"""Stores, as new versions, labels that people put into ``labels/final`` by hand."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lib.core.annotation.slices import Unpainted
from lib.core.annotation.statistics import annotation_statistics
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.slicer.replies import annotation_warnings

from .change import Change
from .image_store import state_of
from .label_files import Stamp, stamp_of
from .masks import DECIDE, UndecidedMask, ZeroMeans, read_ready_made
from .studies import MOST_NAMED
from .submission import Submission
from .versions import VersionStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadyMade:
    """What somebody put into ``labels/final`` for an image.

    Attributes:
        files: the files, sorted by name.
        stamps: the stamp of each file.
        image: ``state_of`` the image.
    """

    files: tuple[Path, ...]
    stamps: tuple[Stamp, ...]
    image: object


class ReadyMadeStore(VersionStore):
    """Versions of annotations, where a label that somebody puts into ``labels/final`` becomes the next version."""

    def __init__(
        self,
        studies: str,
        scheme: LabelScheme,
        unpainted: Unpainted = "unlabelled",
        unlabelled: ZeroMeans | None = None,
    ) -> None:
        """Open the datastore.

        Args:
            studies: its folder.
            scheme: the label scheme of submissions.
            unpainted: what unpainted voxels in annotated slices count as.
            unlabelled: what value 0 means in ready-made masks; None: not specified.
        """
        super().__init__(studies, scheme)
        self.unpainted, self.unlabelled = unpainted, unlabelled
        self._left_out: dict[str, tuple[ReadyMade, InputError]] = {}
        self._to_adopt: dict[str, ReadyMade] = {}

    def describe_left_out(self) -> list[str]:
        """Say which labels in ``labels/final`` can't be used, and what to do."""
        known = self._still_left_out(self._ready_made() if self._left_out else {})
        undecided = [image_id for image_id, (_, error) in known.items() if isinstance(error, UndecidedMask)]
        lines = [
            f"the label of {image_id!r} in labels/final ({', '.join(path.name for path in found.files)}) can't be used "
            f"as an annotation and is left out: {error}{self._how_to_go_on(image_id)}"
            for image_id, (found, error) in known.items()
            if image_id not in undecided
        ]
        if undecided:
            named = ", ".join(undecided[:MOST_NAMED]) + (", …" if len(undecided) > MOST_NAMED else "")
            lines.insert(
                0,
                f"{len(undecided)} masks in labels/final aren't used ({named}): value 0 may mean "
                f"{self.scheme.background} or unlabelled. {DECIDE}",
            )
        return lines

    def _how_to_go_on(self, image_id: str) -> str:
        newest = self._newest_version(image_id)
        return f". Move the file away to go on with version {newest} of the annotation" if newest else ""

    def _settle_all(self, starting: bool) -> None:
        known = self.describe_left_out()
        ready_made = self._ready_made()
        left_out = self._still_left_out(ready_made)
        self._to_adopt = {image_id: found for image_id, found in ready_made.items() if image_id not in left_out}
        super()._settle_all(starting)
        for line in self.describe_left_out():
            if line not in known:
                logger.error(line)

    def _settle(self, change: Change, image_id: str) -> bool:
        ready_made = self._to_adopt.get(image_id)
        # The files of a submission that was going on when they were listed are the server's own by now.
        if ready_made and any(self._is_own(image_id, path) for path in ready_made.files):
            ready_made = None
        return (ready_made is not None and self._adopt(change, image_id, ready_made)) or super()._settle(
            change, image_id
        )

    def _adopt(self, change: Change, image_id: str, ready_made: ReadyMade) -> bool:
        """Store a ready-made label as a version, as if it were submitted; return whether that was possible."""
        for path in ready_made.files:
            try:
                submission, restored = self._read_ready_made(image_id, path)
                break
            except InputError as error:
                # Other threads may be reading the former dictionary.
                self._left_out = {**self._left_out, image_id: (ready_made, error)}
        else:
            return False
        newest = self._newest_version(image_id)
        if newest and np.array_equal(self._read_version(image_id, newest, True).annotation, submission.annotation):
            # A server may have been killed after it stored the version and before it moved the file away.
            self._make_newest_current(change, image_id)
            return True
        known = annotation_statistics(submission.annotation, self.scheme)
        counts = ", ".join(f"{count} {name}" for name, count in known["voxels"].items())
        logger.info("Taking %s as an annotation of %s; voxels: %s", path, image_id, counts)
        warnings = [
            *submission.warnings,
            *annotation_warnings(known, submission.slice_names, self.scheme, self.unpainted),
        ]
        for warning in warnings:
            logger.warning("%s: %s", path, warning)
        files = self._write_files(change, submission.annotation, submission.affine, submission.slicer_affine)
        self._add_version(change, image_id, replace(submission, warnings=warnings), files, None, restored)
        return True

    def _read_ready_made(self, image_id: str, path: Path) -> tuple[Submission, int | None]:
        """Read a ready-made label; return it with the number of the version that it copies, or None.

        Raises:
            InputError: it can't be used.
        """
        same = [n for n, info in self.versions(image_id).items() if info.get("crc32") == self._final.crc32(path)]
        if same:
            # The version's values may be those of another scheme.
            return self._read_version(image_id, same[-1], False), same[-1]
        return read_ready_made(path, self.get_image_uri(image_id), self.scheme, self.unlabelled), None

    def _still_left_out(self, ready_made: Mapping[str, ReadyMade]) -> dict[str, tuple[ReadyMade, InputError]]:
        """Return the ready-made labels that couldn't be used and haven't changed since, with the reason, by image."""
        return {
            image_id: (found, why)
            for image_id, (found, why) in self._left_out.items()
            if found == ready_made.get(image_id)
        }

    def _ready_made(self) -> dict[str, ReadyMade]:
        """Return the labels in ``labels/final`` that no server wrote, by image."""
        files: dict[str, list[Path]] = {}
        for image_id, path in self._final.labels():
            if image_id in self._datastore.objects and not self._is_own(image_id, path):
                files.setdefault(image_id, []).append(path)
        images = self._images() if files else {}
        return {
            image_id: ReadyMade(tuple(paths), tuple(map(stamp_of, paths)), state_of(images.get(image_id)))
            for image_id, paths in files.items()
        }
