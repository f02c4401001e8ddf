"""Every submission becomes a version of the image's annotation, and the newest version counts."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from monailabel.datastore.local import DataModel
from numpy.typing import NDArray

from lib.core.annotation.statistics import AnnotationStatistics, annotation_statistics
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map
from lib.server.records import AnnotationInfo, PreviousVersion
from lib.server.slicer.segments import all_segments, server_segments
from lib.server.slicer.slice_names import SliceNames

from .annotations import FINAL, ORIGINAL, VERSION, AnnotationReader
from .change import Change, Written
from .fitting import describe_misfit
from .label_files import digests_of, now
from .stored_info import read_label_info
from .submission import SchemeError, Submission, remap

logger = logging.getLogger(__name__)

TURN = 0.02
"""Seconds for which the lock is free between two images whose labels are made to agree, so that others get it too."""


@dataclass(frozen=True)
class CurrentFiles:
    """An annotation, written beside its places.

    Attributes:
        final: with the scheme's values.
        original: with the values for 3D Slicer.
    """

    final: Written
    original: Written


class VersionStore(AnnotationReader):
    """Images in a folder, and every annotation that a person ever made of them."""

    def __init__(self, studies: str, scheme: LabelScheme) -> None:
        """Open the folder ``studies``, whose annotations have the classes of ``scheme``."""
        super().__init__(studies)
        self.scheme = scheme

    @classmethod
    def existing(cls, studies: Path) -> "VersionStore":
        """Open a folder that has annotations, with the label scheme of the one that was stored last.

        Raises:
            InputError: the folder has no annotation.
        """
        # A server converts all current annotations to its scheme when it starts. One in another scheme couldn't be
        # converted, and is older.
        for tag in (FINAL, f"{VERSION}*"):
            files = (studies / "labels").glob(f"{tag}/[!.]*.json")
            for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
                names = read_label_info(path).get("label_names", {})
                if len(names) > 1:
                    *foreground, background = sorted(names, key=names.__getitem__)
                    return VersionStore(str(studies), LabelScheme(tuple(foreground), background))
        raise InputError(
            f"{studies}: has no annotation (labels/final/, labels/version_1/, …); give the folder that the "
            "server serves"
        )

    def add(self, image_id: str, annotation: NDArray[np.uint8], client_id: str) -> AnnotationInfo:
        """Store an annotation that was made elsewhere as the next version, and make it the current one.

        Args:
            image_id: the image.
            annotation: (X, Y, Z) on its grid, 0 unlabelled, 1 … K+1.
            client_id: who or what made it.

        Returns:
            The label info of the new version.

        Raises:
            InputError: the image can't be read.
            OSError: the disk failed; nothing has changed.
        """
        image = read_geometry(self.get_image_uri(image_id))
        submission = Submission(annotation, image.affine, image.slicer_affine, SliceNames.of(image), [])
        with self._preparing() as change:
            files = self._write_files(change, annotation, image.affine, image.slicer_affine)
            with self._changing(change):
                return self._add_version(change, image_id, submission, files, client_id)

    def restore(self, image_id: str, version: int, by_voxel: bool = True) -> AnnotationInfo:
        """Make an earlier version of an image's annotation the newest, by storing it again as the next version.

        A server that serves the folder notices the change.

        Args:
            image_id: the image.
            version: its version.
            by_voxel: if the image has the shape of the version but another geometry, as after its header was
                corrected, copy the labels voxel by voxel; a warning of the new version says that this was done.

        Returns:
            The label info of the new version.

        Raises:
            InputError: there is no such image or version, it is the current one already, it or the image can't be
                read, it isn't on the image's grid, or it has a class that the scheme lacks.
        """
        self.reload()
        submission = self._read_version(image_id, version, by_voxel)
        with self._preparing() as change:
            files = self._write_files(change, submission.annotation, submission.affine, submission.slicer_affine)
            with self._changing(change):
                is_current = version == self.current(image_id).get("version") == self.last_version(image_id)
                if is_current and not submission.warnings:
                    raise InputError(f"image {image_id!r}: version {version} is the current one already")
                return self._add_version(change, image_id, submission, files, None, restored_version=version)

    def _read_version(self, image_id: str, version: int, by_voxel: bool) -> Submission:
        """Read a version with the scheme's values; for arguments and errors see ``restore``."""
        path = self.version_file(image_id, version)
        image = read_geometry(self.get_image_uri(image_id))
        stored = read_label_map(path)
        values = remap(stored.array.astype(np.uint8), self.version_names(image_id, version), self.scheme, str(path))
        warnings = []
        # This includes grids that differ only in their directions, as after a mirrored header was corrected.
        if by_voxel and values.shape == image.shape and not np.allclose(stored.affine, image.affine, atol=1e-3):
            annotation = values
            warnings.append(f"version {version} was painted in another geometry and was copied voxel by voxel")
        else:
            try:
                annotation = onto_grid(replace(stored, array=values), image).astype(np.uint8)
            except InputError as error:
                geometry = read_geometry(path)
                misfit = describe_misfit(image_id, version, geometry, image, self._datastore_path)
                raise InputError(misfit) from error
        return Submission(annotation, image.affine, image.slicer_affine, SliceNames.of(image), warnings)

    def _write_files(
        self,
        change: Change,
        annotation: NDArray[np.uint8],
        affine: NDArray[np.float64],
        slicer_affine: NDArray[np.float64] | None,
    ) -> CurrentFiles:
        """Write an annotation beside its places under the tags ``final`` and ``original``."""
        # Slicer creates its segments from this list, and later segments overwrite earlier ones on submit, so the
        # server's segments come first. Slicer needs values that are contiguous from 1, so the paint moves up.
        shifted = np.zeros_like(annotation)
        np.add(annotation, np.uint8(len(server_segments(self.scheme))), out=shifted, where=annotation > 0)
        shown = affine if slicer_affine is None else slicer_affine
        return CurrentFiles(
            change.write_label(self._final.folder, annotation, affine),
            change.write_label(Path(self._datastore.label_path(ORIGINAL)), shifted, shown),
        )

    def _add_version(
        self,
        change: Change,
        image_id: str,
        submission: Submission,
        files: CurrentFiles,
        client_id: str | None,
        restored_version: int | None = None,
    ) -> AnnotationInfo:
        """Make an annotation the next version and the current one; return its label info.

        Args:
            change: does it when it is carried out.
            image_id: the image.
            submission: the annotation.
            files: the same, written.
            client_id: who submitted it.
            restored_version: the version that it restores, if any.

        Raises:
            HTTPException: 404 if the image was removed meanwhile.
        """
        image = self._require(image_id).image
        version = self.last_version(image_id) + 1
        before = self.current(image_id)
        statistics = annotation_statistics(submission.annotation, self.scheme)
        info: AnnotationInfo = {
            "version": version,
            "time": now(),
            "client_id": client_id,
            "restored_version": restored_version,
            "label_names": self._label_names(),
            "statistics": statistics,
            "slice_names": submission.slice_names.to_json(),
            "earlier": _describe_previous(before, statistics) if "version" in before else None,
            "warnings": submission.warnings,
        }
        copied = change.copy(files.final.path, Path(self._datastore.label_path(None)), ".nii.gz")
        self._set_label(change, image_id, f"{VERSION}{version}", Written(copied, files.final.digests), info)
        change.set_image(image_id, DataModel(ext=image.ext, info={**image.info, "versions": version}))
        self._make_current(change, image_id, files, info)
        return info

    def _make_current(self, change: Change, image_id: str, files: CurrentFiles, info: AnnotationInfo) -> None:
        """Put an annotation under the tags ``final`` and ``original``."""
        # Labels that no server wrote move out of the way.
        for owner, path in self._final.labels():
            if owner == image_id and not self._is_own(image_id, path):
                place = self._final.place_aside(path)
                logger.warning("%s: an annotation takes its place; it is kept as %s", path, place)
                change.move_away(path, place)
        self._set_label(change, image_id, FINAL, files.final, info)
        names = {name: value for value, name in enumerate(all_segments(self.scheme), start=1)}
        original: AnnotationInfo = {**info, "label_names": names, "params": {"label_names": names}}
        self._set_label(change, image_id, ORIGINAL, files.original, original)

    def _settle_all(self, starting: bool) -> None:
        """Make the labels of each image agree, and finish what a killed server left unfinished.

        Raises:
            SchemeError: when starting, an annotation has voxels of a class that the scheme lacks.
        """
        images = iter(self.list_images())
        while self._settle_next(images, starting):
            time.sleep(TURN)

    def _settle_next(self, images: Iterator[str], starting: bool) -> bool:
        """Make the labels agree of images up to one whose labels didn't; tell whether there was one."""
        with self._lock.hold():
            for image_id in images:
                try:
                    with self._changing() as change:
                        is_changed = self._settle(change, image_id)
                    if is_changed:
                        return True
                except InputError as error:
                    if starting and isinstance(error, SchemeError):
                        raise
                    logger.error(error)
                except (MemoryError, OSError) as error:
                    # The other images can still be annotated.
                    logger.error("The annotation of %s can't be used now: %r", image_id, error)
        return False

    def _settle(self, change: Change, image_id: str) -> bool:
        """Make the newest version the current one, with the scheme's values, unless it already is.

        It isn't if the server was killed during a submission, somebody removed or replaced ``final``, or the scheme has
        changed.

        Returns:
            Whether anything was changed.

        Raises:
            SchemeError: the annotation has voxels of a class that the scheme lacks.
            InputError: the image or the annotation can't be read.
        """
        labels = self._labels(image_id)
        if FINAL in labels and not self._is_own(image_id, self._final_path(image_id)):
            # No version could be made of it, so it isn't an annotation.
            change.set_label(image_id, FINAL, None)
            return True
        newest, current = self._newest_version(image_id), self.current(image_id)
        is_known = "crc32" not in current or current["crc32"] == self._final.crc32(self._final_path(image_id))
        if newest <= current.get("version", 0) and is_known and (FINAL not in labels or self._tags_agree(image_id)):
            if FINAL not in labels or "crc32" in current:
                return False
            # An earlier version of this software stored it without a checksum.
            self._set_info(change, image_id, FINAL, digests_of(self._final_path(image_id)), current)
            return True
        self._make_newest_current(change, image_id)
        return True

    def _make_newest_current(self, change: Change, image_id: str) -> None:
        """Write ``final`` and ``original`` from the newest version, or from ``final`` if that version's file is gone.

        Raises:
            SchemeError, InputError: see ``_settle``.
        """
        newest = self._newest_version(image_id)
        from_version = newest > 0 and newest >= self.current(image_id).get("version", 0)
        tag = f"{VERSION}{newest}" if from_version else FINAL
        path = self.get_label_uri(image_id, tag)
        logger.info("Making %s the current annotation of %s", path, image_id)
        stored_info: AnnotationInfo = self.get_label_info(image_id, tag)
        info: AnnotationInfo = {"version": newest, "label_names": self._label_names(), **stored_info}
        stored = read_label_map(path)
        annotation = remap(stored.array.astype(np.uint8), info["label_names"], self.scheme, path)
        image = read_geometry(self.get_image_uri(image_id))
        info["label_names"] = self._label_names()
        info["statistics"] = annotation_statistics(annotation, self.scheme)
        files = self._write_files(change, annotation, stored.affine, image.slicer_affine)
        self._make_current(change, image_id, files, info)

    def _tags_agree(self, image_id: str) -> bool:
        """Tell whether ``final`` and ``original`` hold the same version in the scheme's values."""
        labels = self._labels(image_id)
        final: AnnotationInfo = labels[FINAL].info
        original: AnnotationInfo = labels[ORIGINAL].info if ORIGINAL in labels else {}
        # The order of the names counts too, because Slicer numbers segments by it.
        return (
            final["version"] == original.get("version")
            and list(final.get("label_names", ())) == list(self.scheme.classes)
            and list(original.get("label_names", ())) == list(all_segments(self.scheme))
        )

    def _label_names(self) -> dict[str, int]:
        return {name: value for value, name in enumerate(self.scheme.classes, start=1)}


def _describe_previous(before: AnnotationInfo, statistics: AnnotationStatistics) -> PreviousVersion:
    """Describe the previous version and the annotated slices that it has and the new one, of ``statistics``, lacks."""
    earlier = before["statistics"]["annotated_slices"] if "statistics" in before else [[], [], []]
    gone = [sorted(set(a) - set(b)) for a, b in zip(earlier, statistics["annotated_slices"], strict=True)]
    return {
        "version": before["version"],
        "time": before.get("time"),
        "client_id": before.get("client_id"),
        "restored_version": before.get("restored_version"),
        "gone_slices": gone,
    }
