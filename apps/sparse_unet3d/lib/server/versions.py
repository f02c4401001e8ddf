"""Annotations in the folder: every submission is kept as a version, the newest counts.

=============================  ======================================================================================
in the studies folder          what
=============================  ======================================================================================
``*.nii *.nii.gz *.nrrd``      images; ``case_0000.nii.gz``, ``case_0001.nii.gz``, … are the channels of one, ``case``
``labels/version_N/``          the N-th submission of an image, with the label scheme's values; never changed
``labels/final/``              the newest of them; what trains
``labels/original/``           the same for 3D Slicer to load: values and names put the server's segments first
``labels/prediction/``         what the model said last
``labels/uncertainty/``        how unsure it was, 0 … 255
``labels/TAG/ID.json``         what is known of a label: version, time, client, which version it brings back, what of
                               the version before is gone, names of its values and slices, statistics
``datastore_v2.json``          MONAI Label's index; made anew from the above where it is lost or damaged
=============================  ======================================================================================
"""

import glob
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.annotations import statistics
from ..core.errors import InputError
from ..core.labels import LabelScheme
from ..core.slice_names import SliceNames
from ..core.volumes import onto_grid, read_label_map, read_volume
from .folder_store import FolderStore, read_info
from .submission import SchemeError, Submission, read_submission, remap

logger = logging.getLogger(__name__)

FINAL, ORIGINAL = "final", "original"
VERSION = "version_"


class VersionStore(FolderStore):
    """Images in a folder, and every annotation that a person ever made of them."""

    def __init__(self, studies: str, scheme: LabelScheme) -> None:
        """Open the datastore.

        Args:
            studies: its folder.
            scheme: the label scheme of submissions.
        """
        self.scheme = scheme
        super().__init__(studies)

    @classmethod
    def existing(cls, studies: Path) -> "VersionStore":
        """Open the datastore of a folder that has annotations, with the label scheme that they were stored with last.

        Raises:
            InputError: no annotation is kept in the folder.
        """
        # The server brings all current annotations to its scheme when it starts; one that it couldn't is older.
        for tag in (FINAL, f"{VERSION}*"):
            files = (studies / "labels").glob(f"{tag}/[!.]*.json")
            for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
                names = read_info(path).get("label_names", {})
                if len(names) > 1:
                    *foreground, background = sorted(names, key=names.__getitem__)
                    return cls(str(studies), LabelScheme(tuple(foreground), background))
        raise InputError(
            f"{studies}: no annotation is kept there (labels/final/ and labels/version_1/ …); give the folder that the "
            "server serves"
        )

    def versions(self, image_id: str) -> dict[int, dict[str, Any]]:
        """Return what is known of each version of an image's annotation, by number in ascending order."""
        labels = self._datastore.objects[image_id].labels
        return {
            number: labels[f"{VERSION}{number}"].info for number in sorted(filter(None, map(_version_number, labels)))
        }

    def restore(self, image_id: str, version: int) -> dict[str, Any]:
        """Make an earlier version of an image's annotation the newest: it is stored once more, as the next version.

        A server on the same folder notices.

        Returns:
            The label info of the new version.

        Raises:
            InputError: there is no such image or version, it is the current one already, it or the image can't be
                read, or it has a class that the scheme doesn't have.
        """
        self.reload()
        path = self.version_file(image_id, version)
        volume = read_volume(self.get_image_uri(image_id))
        stored = read_label_map(path)
        values = remap(stored.array.astype(np.uint8), self.version_names(image_id, version), self.scheme, str(path))
        annotation = onto_grid(replace(stored, array=values), volume).astype(np.uint8)
        submission = Submission(annotation, volume.affine, volume.slicer_affine, SliceNames.of(volume), [])
        with self._changing():
            if version == self._current(image_id).get("version") == self._last_version(image_id):
                raise InputError(f"image {image_id!r}: version {version} is the current one already")
            info = self._add_version(image_id, submission, None, restored_version=version)
            self._update_datastore_file()
        return info

    def version_file(self, image_id: str, version: int) -> Path:
        """Return the file of a version.

        Raises:
            InputError: there is no such image or version; says which there are.
        """
        if image_id not in self.list_images():
            raise InputError(
                f"image {image_id!r}: {self._datastore_path} has none of this name; it has "
                f"{', '.join(self.list_images()) or 'no image'}"
            )
        known = ", ".join(map(str, self.versions(image_id)))
        if version not in self.versions(image_id):
            raise InputError(f"image {image_id!r}: there is no version {version} of it; versions are {known or 'none'}")
        return Path(self.get_label_uri(image_id, f"{VERSION}{version}"))

    def version_names(self, image_id: str, version: int) -> dict[str, int]:
        """Return the value of each class in a version's file, which may be that of another scheme.

        Raises:
            InputError: it isn't known.
        """
        names: dict[str, int] = self.versions(image_id)[version].get("label_names", {})
        if not names:
            raise InputError(
                f"{self._info_path(image_id, f'{VERSION}{version}')}: missing or without label_names, so nobody knows "
                f"what the values of version {version} stand for; put the file back from a copy of the folder"
            )
        return names

    def _add_version(
        self, image_id: str, submission: Submission, client_id: str | None, restored_version: int | None = None
    ) -> dict[str, Any]:
        """Store an annotation as the next version and make it the current one; return its label info."""
        entry = self._datastore.objects[image_id]
        version = self._last_version(image_id) + 1
        before = self._current(image_id)
        facts = self._facts(submission.annotation)
        info = {
            "version": version,
            "time": now(),
            "client_id": client_id,
            "restored_version": restored_version,
            **facts,
            "slice_names": submission.slice_names.to_json(),
            "earlier": _what_is_gone(before, facts["statistics"]) if "version" in before else None,
            "warnings": submission.warnings,
        }
        self._store(image_id, f"{VERSION}{version}", submission.annotation, submission.affine, info)
        entry.image.info = {**entry.image.info, "versions": version}
        self._make_current(image_id, submission.annotation, submission.affine, submission.slicer_affine, info)
        return info

    def _make_current(
        self,
        image_id: str,
        annotation: NDArray[np.uint8],
        affine: NDArray[np.float64],
        slicer_affine: NDArray[np.float64] | None,
        info: dict[str, Any],
    ) -> None:
        """Store an annotation under the tags ``final`` and ``original``."""
        self._store(image_id, FINAL, annotation, affine, info)
        # In the list that Slicer makes its segments from, the server's stand first: later ones overwrite earlier
        # ones on submit. All that one label has of names are contiguous values from 1, so paint moves up.
        shifted = np.where(annotation > 0, annotation + np.uint8(len(self.scheme.not_paint)), 0).astype(np.uint8)
        names = {name: value for value, name in enumerate(self.scheme.segments, start=1)}
        shown = affine if slicer_affine is None else slicer_affine
        self._store(
            image_id, ORIGINAL, shifted, shown, {**info, "label_names": names, "params": {"label_names": names}}
        )

    def _settle_all(self, starting: bool) -> bool:
        """Bring every image's labels into agreement, and finish what a killed server left; tell whether they weren't.

        Raises:
            SchemeError: when starting, an annotation has voxels of a class that the scheme doesn't have.
        """
        changed = False
        for image_id in self.list_images():
            try:
                changed |= self._settle(image_id)
            except InputError as error:
                if starting and isinstance(error, SchemeError):
                    raise
                logger.error(error)
        return changed

    def _settle(self, image_id: str) -> bool:
        """Make the newest version the current one, with the scheme's values, where it isn't; tell whether it wasn't.

        That happens where the server was killed in the midst of a submission, ``final`` was removed or put there by
        hand, or the scheme changed.

        Raises:
            SchemeError: the annotation has voxels of a class that the scheme doesn't have.
            InputError: the image or the annotation can't be read.
        """
        labels = self._datastore.objects[image_id].labels
        current = self._current(image_id)
        newest = max(map(_version_number, labels), default=0)
        behind = newest > current.get("version", 0)
        if FINAL in labels and "version" not in current and not behind:
            return self._adopt(image_id)
        if not behind and (FINAL not in labels or self._is_whole(image_id)):
            return False
        tag = f"{VERSION}{newest}" if behind else FINAL
        path = self.get_label_uri(image_id, tag)
        logger.info("Making %s the current annotation of %s", path, image_id)
        info = {"version": newest, "label_names": self._label_names(), **self.get_label_info(image_id, tag)}
        stored = read_label_map(path)
        annotation = remap(stored.array.astype(np.uint8), info["label_names"], self.scheme, path)
        volume = read_volume(self.get_image_uri(image_id))
        self._make_current(
            image_id, annotation, stored.affine, volume.slicer_affine, {**info, **self._facts(annotation)}
        )
        return True

    def _is_whole(self, image_id: str) -> bool:
        """Tell whether ``final`` and ``original`` hold the same version in the scheme's values."""
        labels = self._datastore.objects[image_id].labels
        final, original = labels[FINAL].info, labels[ORIGINAL].info if ORIGINAL in labels else {}
        # The order of the names counts too: Slicer goes by it.
        return (
            final["version"] == original.get("version")
            and list(final.get("label_names", ())) == list(self.scheme.classes)
            and list(original.get("label_names", ())) == list(self.scheme.segments)
        )

    def _facts(self, annotation: NDArray[np.uint8]) -> dict[str, Any]:
        return {"label_names": self._label_names(), "statistics": statistics(annotation, self.scheme)}

    def _adopt(self, image_id: str) -> bool:
        """Make a label that somebody put into ``labels/final`` a version, as if it had been submitted."""
        path = Path(self.get_label_uri(image_id, FINAL))
        try:
            submission = read_submission(path, self.get_image_uri(image_id), None, self.scheme, by_number=True)
        except InputError as error:
            logger.error("%s can't be used as annotation and is left out: %s", path, error)
            del self._datastore.objects[image_id].labels[FINAL]
            return True
        logger.info("Taking %s for an annotation of %s", path, image_id)
        self._add_version(image_id, submission, None)
        if path != self._label_path(image_id, FINAL):
            path.unlink()
        return True

    def _last_version(self, image_id: str) -> int:
        """Return the highest number ever given, also where its files are gone."""
        numbers = [self._datastore.objects[image_id].image.info.get("versions", 0)]
        numbers.append(self._current(image_id).get("version", 0))
        for folder in Path(self._datastore.label_path(None)).iterdir():
            if _version_number(folder.name) and any(folder.glob(f"{glob.escape(image_id)}.*")):
                numbers.append(_version_number(folder.name))
        return max(numbers)

    def _current(self, image_id: str) -> dict[str, Any]:
        """Return what is known of the current annotation; empty if there is none."""
        return self.get_label_info(image_id, FINAL)

    def _label_names(self) -> dict[str, int]:
        return {name: value for value, name in enumerate(self.scheme.classes, start=1)}


def _version_number(tag: str) -> int:
    """Return N of ``version_N``; 0 for another tag."""
    number = tag.removeprefix(VERSION)
    return int(number) if tag.startswith(VERSION) and number.isdecimal() else 0


def _what_is_gone(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return whose the version before was, and for each axis its annotated slices that aren't there any more."""
    earlier = before.get("statistics", {}).get("annotated_slices", [[], [], []])
    gone = [sorted(set(a) - set(b)) for a, b in zip(earlier, now["annotated_slices"], strict=True)]
    return {
        **{key: before.get(key) for key in ("version", "time", "client_id", "restored_version")},
        "gone_slices": gone,
    }


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
