"""A project folder whose images come from a DICOM archive, and whose annotations go there too.

The folder stays the truth: what is in it counts, and all work goes on while the archive can't be reached, except on
images that nobody has opened before.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.datastore.local import DataModel

from lib.core.annotation.slices import Unpainted
from lib.core.errors import InputError
from lib.core.files import new_folder
from lib.core.labels import LabelScheme
from lib.core.volumes.dicom import DicomSource
from lib.core.volumes.formats import is_dicom
from lib.core.volumes.reading import read_label_map
from lib.server.records import AnnotationInfo
from lib.server.store.annotations import VERSION
from lib.server.store.change import Change, Written
from lib.server.store.datastore import AnnotationStore, SubmittedLabel
from lib.server.store.masks import ZeroMeans

from .archive import Archive
from .delivered import Delivered
from .segmentations import MAKER, Restored, image_of, make_segmentation, read_segmentation, segmentation_uid

logger = logging.getLogger(__name__)


class ArchivedStore(AnnotationStore):
    """Images of an archive: each is fetched when somebody first wants it, together with its annotations there.

    Attributes:
        archive: the archive.
        delivered: which versions the archive has.
        not_fetched: images that couldn't be fetched, and weren't fetched since.
    """

    def __init__(
        self,
        folder: Path,
        archive: Archive,
        scheme: LabelScheme,
        unpainted: Unpainted,
        unlabelled: ZeroMeans | None,
        largest_upload: int,
    ) -> None:
        """Open the project folder ``folder`` of ``archive``; for the other arguments see ``AnnotationStore``."""
        super().__init__(str(folder), scheme, unpainted, unlabelled, largest_upload)
        self.archive = archive
        self.delivered = Delivered(Path(self._datastore.label_path(None)), archive.address)
        self.not_fetched: set[str] = set()
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    # Images

    def is_fetched(self, image_id: str) -> bool:
        """Tell whether the files of an image of the archive are in the folder."""
        return is_dicom(self.folder / image_id)

    def is_here(self, image_id: str) -> bool:
        """Tell whether an image needs not be fetched: it is in the folder, or isn't one of the archive."""
        return image_id not in self.listed.series() or self.is_fetched(image_id)

    def fetch(self, image_id: str) -> None:
        """Bring an image of the archive into the folder, with its annotations, unless it is there.

        Raises:
            ArchiveError: the archive can't be reached, or doesn't send all of the image.
            InputError: something else has the name of the image's folder.
            OSError: the disk failed. On any exception nothing has changed.
            Stopped: the process is to end.
        """
        # The lock is for threads that want the same image at the same time.
        if self.is_here(image_id):
            return
        with self._fetching[image_id]:
            if self.is_here(image_id):
                return
            logger.info("Fetching %s", image_id)
            self.not_fetched.add(image_id)
            try:
                with new_folder(self.folder / image_id) as beside:
                    self.archive.download(self.listed.series()[image_id], image_id, beside)
                    self._recover(image_id, beside)
            except (InputError, OSError):
                # Another process may have fetched it at the same time.
                if not self.is_fetched(image_id):
                    raise
            self.not_fetched.discard(image_id)
            self._settle_recovered(image_id)

    def check_image(self, image_id: str) -> None:
        # What the state of the image is depends on its files.
        self.fetch(image_id)
        super().check_image(image_id)

    def is_unreadable(self, image_id: str) -> bool:
        return super().is_unreadable(image_id) or (image_id in self.not_fetched and not self.is_here(image_id))

    def image_files(self, image_id: str) -> tuple[Path, ...]:
        self.fetch(image_id)
        return super().image_files(image_id)

    def path_for_slicer(self, image_id: str) -> Path:
        self.fetch(image_id)
        return super().path_for_slicer(image_id)

    # Annotations to the archive

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> SubmittedLabel:
        self._require(image_id)
        self.fetch(image_id)
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def undelivered(self) -> list[tuple[str, int]]:
        """Return the image and the number of each version that the archive doesn't have."""
        return [
            (image_id, version)
            for image_id in self.listed.series()
            if (versions := self.versions(image_id))
            for version in sorted(versions.keys() - (self.delivered.of(image_id) or frozenset()))
        ]

    def deliver(self, image_id: str, version: int) -> str:
        """Store a version in the archive; return the unique id of its series there.

        Raises:
            ArchiveError: the archive can't be reached, or refuses it.
            InputError: the version or its image can't be read.
        """
        self.recover(image_id)
        annotation = read_label_map(self.version_file(image_id, version)).array.astype(np.uint8)
        info: AnnotationInfo = {**self.versions(image_id)[version], "version": version}
        info["label_names"] = self.version_names(image_id, version)
        made = make_segmentation(DicomSource(self.folder / image_id), annotation, info)
        self.archive.store(made)
        self.delivered.note(image_id, [version])
        return str(made.SeriesInstanceUID)

    # Annotations from the archive

    def recover(self, image_id: str) -> None:
        """Bring the annotations of an image from the archive into the folder, and the image itself.

        Raises:
            ArchiveError: the archive can't be reached.
            InputError: the image in the folder can't be read, or something else has the name of its folder.
            OSError: the disk failed; nothing has changed.
        """
        if not self.is_here(image_id):
            self.fetch(image_id)
        elif self.delivered.of(image_id) is None:
            self._recover(image_id, self.folder / image_id)
            self._settle_recovered(image_id)

    def _recover(self, image_id: str, folder: Path) -> None:
        """Store the versions that the archive has and the project lacks, under the numbers that they had.

        If the project has another version of the same number, which somebody made while the archive couldn't be
        reached, all of those stay in the archive: an older one may not take the place of the current one.

        Args:
            image_id: the image.
            folder: where its files are.

        Raises:
            ArchiveError, InputError, OSError: see ``recover``.
        """
        same, others = set[int](), set[int]()
        with self._preparing() as change:
            written: dict[int, tuple[Written, AnnotationInfo]] = {}
            for found, source in self._versions_in_archive(image_id, folder):
                if found.version in self.versions(image_id):
                    (same if self._has_same(image_id, found) else others).add(found.version)
                # Two servers may have given the same number.
                elif found.version not in written or written[found.version][1]["time"] < found.info["time"]:
                    place = Path(self._datastore.label_path(None))
                    file = change.write_label(place, found.annotation, source.geometry.affine)
                    written[found.version] = file, found.info
            if others - same:
                logger.warning(
                    "%s: versions %s in the archive are others than those in the project folder. What the archive has "
                    "of this image stays there only",
                    image_id,
                    ", ".join(map(str, sorted(others - same))),
                )
                written = {}
            with self._changing(change):
                self._put(change, image_id, written)
        if written:
            logger.info("%s: versions %s are back from the archive", image_id, ", ".join(map(str, sorted(written))))
        self.delivered.note(image_id, {*written, *same})

    def _put(self, change: Change, image_id: str, written: dict[int, tuple[Written, AnnotationInfo]]) -> None:
        image = self._require(image_id).image
        for version, (file, info) in written.items():
            self._set_label(change, image_id, f"{VERSION}{version}", file, info)
        if written:
            last = max(*written, self.last_version(image_id))
            change.set_image(image_id, DataModel(ext=image.ext, info={**image.info, "versions": last}))

    def _versions_in_archive(self, image_id: str, folder: Path) -> Iterator[tuple[Restored, DicomSource]]:
        """Yield the versions of an image that the archive has, each with the image; damaged ones are left out."""
        study = self.listed.series()[image_id]
        for series in self.archive.segmentations(MAKER, study):
            for segmentation in self.archive.retrieve(study, series):
                if image_of(segmentation) != image_id:
                    continue
                source = DicomSource(folder)
                try:
                    yield read_segmentation(source, segmentation), source
                except InputError as error:
                    logger.error("%s: a version in the archive is left out: %s", image_id, error)

    def _has_same(self, image_id: str, found: Restored) -> bool:
        """Tell whether the project has the version that was found in the archive."""
        here = read_label_map(self.version_file(image_id, found.version)).array.astype(np.uint8)
        return segmentation_uid(image_id, found.version, here, self.version_names(image_id, found.version)) == found.uid

    def _settle_recovered(self, image_id: str) -> None:
        """Make the newest version the current annotation."""
        try:
            with self._changing() as change:
                self._settle(change, image_id)
        except InputError as error:
            # The image can be annotated all the same.
            logger.error(error)

    def _settle(self, change: Change, image_id: str) -> bool:
        # Without its files, the image has no grid yet.
        return self.is_here(image_id) and super()._settle(change, image_id)
