"""Every submission becomes a version of the image's annotation, and the newest version counts."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.statistics import AnnotationStatistics, annotation_statistics
from lib.core.errors import InputError
from lib.core.files import replacing, write_json
from lib.core.labels import LabelScheme
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map, write_label_map
from lib.server.records import AnnotationInfo, PreviousVersion
from lib.server.slicer.segments import all_segments, server_segments
from lib.server.slicer.slice_names import SliceNames

from .annotations import FINAL, ORIGINAL, VERSION, AnnotationReader
from .fitting import describe_misfit
from .label_files import now, read_info
from .submission import SchemeError, Submission, remap

logger = logging.getLogger(__name__)


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
                names = read_info(path).get("label_names", {})
                if len(names) > 1:
                    *foreground, background = sorted(names, key=names.__getitem__)
                    return VersionStore(str(studies), LabelScheme(tuple(foreground), background))
        raise InputError(
            f"{studies}: has no annotation (labels/final/, labels/version_1/, …); give the folder that the "
            "server serves"
        )

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
        with self._changing():
            is_current = version == self.current(image_id).get("version") == self._last_version(image_id)
            if is_current and not submission.warnings:
                raise InputError(f"image {image_id!r}: version {version} is the current one already")
            info = self._add_version(image_id, submission, None, restored_version=version)
            self._update_datastore_file()
        return info

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

    def _add_version(
        self, image_id: str, submission: Submission, client_id: str | None, restored_version: int | None = None
    ) -> AnnotationInfo:
        """Store an annotation as the next version and make it the current one; return its label info."""
        entry = self._datastore.objects[image_id]
        version = self._last_version(image_id) + 1
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
        tag = f"{VERSION}{version}"
        self._store(image_id, tag, submission.annotation, submission.affine, info)
        entry.image.info = {**entry.image.info, "versions": version}
        self._make_current(image_id, submission.annotation, submission.affine, submission.slicer_affine, info, tag)
        return info

    def _make_current(
        self,
        image_id: str,
        annotation: NDArray[np.uint8],
        affine: NDArray[np.float64],
        slicer_affine: NDArray[np.float64] | None,
        info: AnnotationInfo,
        same: str | None = None,
    ) -> None:
        """Store an annotation under the tags ``final`` and ``original``; the tag ``same`` has the file of ``final``."""
        with replacing(self._label_path(image_id, FINAL)) as beside:
            if same:
                # A link would let an edit of one file change the other.
                shutil.copyfile(self._label_path(image_id, same), beside)
            else:
                write_label_map(beside, annotation, affine)
            # As late as possible, because somebody may put a file there at any time.
            self._keep_foreign_labels(image_id)
        self._store_info(image_id, FINAL, info)
        # Slicer creates its segments from this list, and later segments overwrite earlier ones on submit, so the
        # server's segments come first. Slicer needs values that are contiguous from 1, so the paint moves up.
        shifted = np.zeros_like(annotation)
        np.add(annotation, np.uint8(len(server_segments(self.scheme))), out=shifted, where=annotation > 0)
        names = {name: value for value, name in enumerate(all_segments(self.scheme), start=1)}
        shown = affine if slicer_affine is None else slicer_affine
        original: AnnotationInfo = {**info, "label_names": names, "params": {"label_names": names}}
        self._store(image_id, ORIGINAL, shifted, shown, original)

    def _keep_foreign_labels(self, image_id: str) -> None:
        """Move labels that no server wrote out of ``labels/final`` before an annotation takes their place."""
        labels = [path for owner, path in self._final.labels() if owner == image_id]
        for path in [path for path in labels if not self._is_own(image_id, path)]:
            self._final.move_aside(path)

    def _settle_all(self, starting: bool) -> bool:
        """Make the labels of each image agree, and finish what a killed server left unfinished.

        Returns:
            Whether anything was changed.

        Raises:
            SchemeError: when starting, an annotation has voxels of a class that the scheme lacks.
        """
        changed = False
        for image_id in self.list_images():
            try:
                changed |= self._settle(image_id)
            except InputError as error:
                if starting and isinstance(error, SchemeError):
                    raise
                logger.error(error)
            except (MemoryError, OSError) as error:
                # The other images can still be annotated.
                logger.error("The annotation of %s can't be used now: %r", image_id, error)
        return changed

    def _settle(self, image_id: str) -> bool:
        """Make the newest version the current one, with the scheme's values, unless it already is.

        It isn't if the server was killed during a submission, somebody removed or replaced ``final``, or the scheme has
        changed.

        Returns:
            Whether anything was changed.

        Raises:
            SchemeError: the annotation has voxels of a class that the scheme lacks.
            InputError: the image or the annotation can't be read.
        """
        labels = self._datastore.objects[image_id].labels
        if FINAL in labels and not self._is_own(image_id, self._final_path(image_id)):
            # No version could be made of it, so it isn't an annotation.
            del labels[FINAL]
            return True
        newest, current = self._newest_version(image_id), self.current(image_id)
        is_known = "crc32" not in current or current["crc32"] == self._final.crc32(self._final_path(image_id))
        if newest <= current.get("version", 0) and is_known and (FINAL not in labels or self._tags_agree(image_id)):
            if FINAL not in labels or "crc32" in current:
                return False
            # An earlier version of this software stored it without a checksum.
            self._store_info(image_id, FINAL, current)
            return True
        self._make_newest_current(image_id)
        return True

    def _make_newest_current(self, image_id: str) -> None:
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
        if from_version:
            # After an interruption, the scheme of the values in ``final`` would be unknown; version 0 says so.
            write_json(self._info_path(image_id, FINAL), {"version": 0})
        info["label_names"] = self._label_names()
        info["statistics"] = annotation_statistics(annotation, self.scheme)
        self._make_current(image_id, annotation, stored.affine, image.slicer_affine, info)

    def _tags_agree(self, image_id: str) -> bool:
        """Tell whether ``final`` and ``original`` hold the same version in the scheme's values."""
        labels = self._datastore.objects[image_id].labels
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
