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
``labels/ready_made/``         what somebody put into ``labels/final/``, as it was
``labels/TAG/ID.json``         what is known of a label: version, time, client, which version it brings back, what of
                               the version before is gone, names of its values and slices, statistics, CRC-32 of its
                               file
``datastore_v2.json``          MONAI Label's index; made anew from the above where it is lost or damaged
=============================  ======================================================================================
"""

import glob
import itertools
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import Unpainted
from lib.core.annotation.statistics import annotation_statistics
from lib.core.errors import InputError
from lib.core.files import replacing, write_json
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import split_ending
from lib.core.volumes.grids import check_on_grid, onto_grid
from lib.core.volumes.image_files import is_listed
from lib.core.volumes.reading import read_geometry, read_label_map, read_volume, write_label_map
from lib.core.volumes.volume import Geometry, Placed, Volume
from lib.server.slicer.replies import annotation_warnings
from lib.server.slicer.slice_names import SliceNames

from .folder_store import FolderStore, crc32_of, read_info, state_of
from .studies import MOST_NAMED
from .submission import DECIDE, SchemeError, Submission, UndecidedMask, ZeroMeans, read_ready_made, remap

logger = logging.getLogger(__name__)

FINAL, ORIGINAL, READY_MADE = "final", "original", "ready_made"
VERSION = "version_"


@dataclass(frozen=True)
class ReadyMade:
    """What somebody put into ``labels/final`` for an image.

    Attributes:
        files: there, by name.
        written: when, of each, in ns, and its size.
        image: ``state_of`` the image.
    """

    files: tuple[Path, ...]
    written: tuple[tuple[int, int], ...]
    image: object


class VersionStore(FolderStore):
    """Images in a folder, and every annotation that a person ever made of them."""

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
            unlabelled: what value 0 means in ready-made masks; None: not said.
        """
        self.scheme, self.unpainted, self.unlabelled = scheme, unpainted, unlabelled
        self._left_out: dict[str, tuple[ReadyMade, InputError]] = {}
        self._crcs: dict[Path, tuple[object, int]] = {}
        super().__init__(studies)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the images that have an annotation; a label that isn't one, or not yet, doesn't count."""
        return [image_id for image_id in self.list_images() if "version" in self._current(image_id)]

    def describe_left_out(self) -> list[str]:
        """Say which labels in ``labels/final`` aren't used, and what to do."""
        known = self._still_left_out(self._ready_made() if self._left_out else {})
        undecided = [image_id for image_id, (_, error) in known.items() if isinstance(error, UndecidedMask)]
        lines = [
            f"the label of {image_id!r} in labels/final ({', '.join(path.name for path in found.files)}) can't be used "
            f"as annotation and is left out: {error}{self._what_counts_without(image_id)}"
            for image_id, (found, error) in known.items()
            if image_id not in undecided
        ]
        if undecided:
            named = ", ".join(undecided[:MOST_NAMED]) + (", …" if len(undecided) > MOST_NAMED else "")
            lines.insert(
                0,
                f"{len(undecided)} masks in labels/final aren't used ({named}): value 0 may mean "
                f"{self.scheme.background} or not labelled. {DECIDE}",
            )
        return lines

    def _what_counts_without(self, image_id: str) -> str:
        newest = self._newest_version(image_id)
        return f". Move the file away to go on with version {newest} of the annotation" if newest else ""

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

    def restore(self, image_id: str, version: int, by_voxel: bool = True) -> dict[str, Any]:
        """Make an earlier version of an image's annotation the newest: it is stored once more, as the next version.

        A server on the same folder notices.

        Args:
            image_id: the image.
            version: its version.
            by_voxel: if the image has as many voxels as the version but lies elsewhere, as after its header was
                corrected, give each voxel the label of the voxel with its indices; the new version's warnings say so.

        Returns:
            The label info of the new version.

        Raises:
            InputError: there is no such image or version, it is the current one already, it or the image can't be
                read, it isn't on the image's grid, or it has a class that the scheme doesn't have.
        """
        self.reload()
        submission = self._read_version(image_id, version, by_voxel)
        with self._changing():
            is_current = version == self._current(image_id).get("version") == self._last_version(image_id)
            if is_current and not submission.warnings:
                raise InputError(f"image {image_id!r}: version {version} is the current one already")
            info = self._add_version(image_id, submission, None, restored_version=version)
            self._update_datastore_file()
        return info

    def _read_version(self, image_id: str, version: int, by_voxel: bool) -> Submission:
        """Read a version with the scheme's values; arguments and errors as of ``restore``."""
        path = self.version_file(image_id, version)
        image = read_geometry(self.get_image_uri(image_id))
        stored = read_label_map(path)
        values = remap(stored.array.astype(np.uint8), self.version_names(image_id, version), self.scheme, str(path))
        warnings = []
        # Also where the two grids are one but for directions: a header that was mirrored by mistake is corrected so.
        if by_voxel and values.shape == image.shape and not np.allclose(stored.affine, image.affine, atol=1e-3):
            annotation = values
            warnings.append(f"version {version} was painted in another geometry and was taken over voxel by voxel")
        else:
            try:
                annotation = onto_grid(replace(stored, array=values), image).astype(np.uint8)
            except InputError as error:
                raise InputError(self._misfit(image_id, version, read_geometry(path), image)) from error
        return Submission(annotation, image.affine, image.slicer_affine, SliceNames.of(image), warnings)

    def _require_usable(self, image_id: str) -> None:
        """Read an image.

        Raises:
            InputError: also if its annotation would be shown beside its place, as after the header was corrected.
        """
        super()._require_usable(image_id)
        if "version" in self._current(image_id):
            image, stored = (
                read_geometry(uri) for uri in (self.get_image_uri(image_id), self.get_label_uri(image_id, FINAL))
            )
            if stored.shape == image.shape:
                self._require_fit(image_id, stored, image)

    def annotated_geometry(self, image_id: str) -> Geometry:
        """Return what the headers of an annotated image say, if it can be trained on as far as they tell.

        Raises:
            InputError: the image or its annotation isn't there or isn't readable, or they don't fit; says what to do.
        """
        self.image_files(image_id)
        self._require_own(image_id)
        image = read_geometry(self.get_image_uri(image_id))
        self._require_fit(image_id, read_geometry(self.get_label_uri(image_id, FINAL)), image)
        return image

    def annotated_volume(self, image_id: str, scheme: LabelScheme) -> tuple[Volume, NDArray[np.uint8]]:
        """Return an image and its annotation (X, Y, Z), 0 unlabelled, 1 … K+1.

        Raises:
            InputError: as ``annotated_geometry``; the voxels can't be read, or are none of the scheme's values.
        """
        self.image_files(image_id)
        volume = read_volume(self.get_image_uri(image_id))
        return volume, self.annotation(image_id, volume, scheme)

    def annotation(self, image_id: str, image: Placed, scheme: LabelScheme) -> NDArray[np.uint8]:
        """Return the annotation of an image on its grid, (X, Y, Z), 0 unlabelled, 1 … K+1.

        Raises:
            InputError: it can't be read, has other values, or doesn't fit the image; says what to do.
        """
        self._require_own(image_id)
        label = read_label_map(self.get_label_uri(image_id, FINAL))
        if label.array.max() > scheme.background_value:
            raise InputError(
                f"{label.name}: has voxels of value {label.array.max()}, the highest is "
                f"{scheme.background_value} ({scheme.describe()}); submit the annotation again"
            )
        x, y, z = label.array.shape
        self._require_fit(image_id, Geometry((x, y, z), label.affine, 1, label.array.dtype, name=label.name), image)
        return onto_grid(label, image).astype(np.uint8)

    def _require_own(self, image_id: str) -> None:
        """Refuse an annotation that somebody changed by hand, until a server has made a version of it.

        Raises:
            InputError: says what to do.
        """
        path = self._final_path(image_id)
        if not self._is_own(image_id, path):
            raise InputError(
                f"{path}: somebody put this file there, and the server hasn't taken it over as a version yet; restart "
                "the server, which takes it or says why it can't"
            )

    def _require_fit(self, image_id: str, stored: Geometry, image: Placed) -> None:
        """Refuse an annotation that doesn't lie on its image.

        Raises:
            InputError: says why, and what to do.
        """
        try:
            check_on_grid(stored, image)
        except InputError as error:
            raise InputError(self._misfit(image_id, self._current(image_id)["version"], stored, image)) from error

    def _misfit(self, image_id: str, version: int, stored: Placed, image: Placed) -> str:
        """Say how a version of an annotation and its image differ, and what to do about it."""
        if stored.shape != image.shape:
            return (
                f"image {image_id!r}: {image.name} has the shape {image.shape}, version {version} of its annotation "
                f"{stored.shape}: another image has come in its place. Put the former file back, or paint this one and "
                "submit it"
            )
        now, then = (
            " × ".join(f"{size:.6g}" for size in np.linalg.norm(placed.affine[:3, :3], axis=0))
            for placed in (image, stored)
        )
        how = f"voxel size {now} mm instead of {then} mm" if now != then else "another place or direction"
        return (
            f"image {image_id!r}: {image.name} has the same voxels as version {version} of its annotation in another "
            f"geometry ({how}). If its header was corrected, the paint still fits voxel by voxel: python "
            f"apps/sparse_unet3d annotations restore {_quoted(image_id)} {version} --by-voxel --studies "
            f"{_quoted(self._datastore_path)}. If another image has come in its place, put the former file back"
        )

    def _state(self, image_id: str) -> object:
        return super()._state(image_id), self._current(image_id).get("version")

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
        info: dict[str, Any],
        same: str | None = None,
    ) -> None:
        """Store an annotation under the tags ``final`` and ``original``; ``same`` is one that has the same file."""
        with replacing(self._label_path(image_id, FINAL)) as beside:
            if same:
                # No link, as who edits one would change the other.
                shutil.copyfile(self._label_path(image_id, same), beside)
            else:
                write_label_map(beside, annotation, affine)
            # Last, as somebody may put a file there meanwhile.
            self._keep_ready_made(image_id)
        self._store_info(image_id, FINAL, info)
        # In the list that Slicer makes its segments from, the server's stand first: later ones overwrite earlier
        # ones on submit. All that one label has of names are contiguous values from 1, so paint moves up.
        shifted = np.zeros_like(annotation)
        np.add(annotation, np.uint8(len(self.scheme.not_paint)), out=shifted, where=annotation > 0)
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
        known = self.describe_left_out()
        ready_made = self._ready_made()
        left_out = self._still_left_out(ready_made)
        for image_id in self.list_images():
            try:
                changed |= self._settle(image_id, None if image_id in left_out else ready_made.get(image_id))
            except InputError as error:
                if starting and isinstance(error, SchemeError):
                    raise
                logger.error(error)
            except (MemoryError, OSError) as error:
                # The others can be annotated all the same.
                logger.error("The annotation of %s can't be used now: %r", image_id, error)
        for line in self.describe_left_out():
            if line not in known:
                logger.error(line)
        return changed

    def _settle(self, image_id: str, ready_made: ReadyMade | None) -> bool:
        """Make the newest version the current one, with the scheme's values, where it isn't; tell whether it wasn't.

        That happens where the server was killed in the midst of a submission, ``final`` was removed or put there by
        hand, or the scheme changed.

        Args:
            image_id: the image.
            ready_made: what to make a version of, if anything.

        Raises:
            SchemeError: the annotation has voxels of a class that the scheme doesn't have.
            InputError: the image or the annotation can't be read.
        """
        if ready_made and self._adopt(image_id, ready_made):
            return True
        labels = self._datastore.objects[image_id].labels
        if FINAL in labels and not self._is_own(image_id, self._final_path(image_id)):
            # It can't be used, so it is no annotation.
            del labels[FINAL]
            return True
        newest, current = self._newest_version(image_id), self._current(image_id)
        is_noted = "crc32" not in current or current["crc32"] == self._crc32(self._final_path(image_id))
        if newest <= current.get("version", 0) and is_noted and (FINAL not in labels or self._is_whole(image_id)):
            if FINAL not in labels or "crc32" in current:
                return False
            # An older server stored it.
            self._store_info(image_id, FINAL, current)
            return True
        self._make_newest_current(image_id)
        return True

    def _make_newest_current(self, image_id: str) -> None:
        """Make ``final`` and ``original`` of the newest version; of ``final`` itself where that version's file is gone.

        Raises:
            SchemeError, InputError: as ``_settle``.
        """
        newest = self._newest_version(image_id)
        from_version = newest > 0 and newest >= self._current(image_id).get("version", 0)
        tag = f"{VERSION}{newest}" if from_version else FINAL
        path = self.get_label_uri(image_id, tag)
        logger.info("Making %s the current annotation of %s", path, image_id)
        info = {"version": newest, "label_names": self._label_names(), **self.get_label_info(image_id, tag)}
        stored = read_label_map(path)
        annotation = remap(stored.array.astype(np.uint8), info["label_names"], self.scheme, path)
        image = read_geometry(self.get_image_uri(image_id))
        if from_version:
            # If this is cut short, it isn't known which scheme the values of ``final`` are of: it is made again.
            write_json(self._info_path(image_id, FINAL), {"version": 0})
        self._make_current(
            image_id, annotation, stored.affine, image.slicer_affine, {**info, **self._facts(annotation)}
        )

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
        return {"label_names": self._label_names(), "statistics": annotation_statistics(annotation, self.scheme)}

    def _adopt(self, image_id: str, ready_made: ReadyMade) -> bool:
        """Make what somebody put into ``labels/final`` a version, as if submitted; tell whether that can be done."""
        for path in ready_made.files:
            try:
                submission, restored = self._read_ready_made(image_id, path)
                break
            except InputError as error:
                self._left_out[image_id] = ready_made, error
        else:
            return False
        newest = self._newest_version(image_id)
        if newest and np.array_equal(self._read_version(image_id, newest, True).annotation, submission.annotation):
            # As when a server was killed after it stored the version and before it moved the file away.
            self._make_newest_current(image_id)
            return True
        known = annotation_statistics(submission.annotation, self.scheme)
        counts = ", ".join(f"{count} {name}" for name, count in known["voxels"].items())
        logger.info("Taking %s for an annotation of %s; voxels: %s", path, image_id, counts)
        warnings = [
            *submission.warnings,
            *annotation_warnings(known, submission.slice_names, self.scheme, self.unpainted),
        ]
        for warning in warnings:
            logger.warning("%s: %s", path, warning)
        self._add_version(image_id, replace(submission, warnings=warnings), None, restored)
        return True

    def _read_ready_made(self, image_id: str, path: Path) -> tuple[Submission, int | None]:
        """Read what somebody put into ``labels/final``; also return of which version it is a copy, if of one.

        Raises:
            InputError: it can't be used.
        """
        same = [number for number, info in self.versions(image_id).items() if info.get("crc32") == self._crc32(path)]
        if same:
            # Its values may be those of another scheme.
            return self._read_version(image_id, same[-1], False), same[-1]
        return read_ready_made(path, self.get_image_uri(image_id), self.scheme, self.unlabelled), None

    def _still_left_out(self, ready_made: Mapping[str, ReadyMade]) -> dict[str, tuple[ReadyMade, InputError]]:
        """Return by image which label in ``labels/final`` is useless and why, if it is ready-made as it was then."""
        return {
            image_id: (found, why)
            for image_id, (found, why) in self._left_out.items()
            if found == ready_made.get(image_id)
        }

    def _ready_made(self) -> dict[str, ReadyMade]:
        """Return by image what somebody put into ``labels/final`` and no version was made of yet."""
        files: dict[str, list[Path]] = {}
        for image_id, path in self._files_in_final():
            if image_id in self._datastore.objects and not self._is_own(image_id, path):
                files.setdefault(image_id, []).append(path)
        images = self._images() if files else {}
        return {
            image_id: ReadyMade(tuple(paths), tuple(map(_stamp, paths)), state_of(images.get(image_id)))
            for image_id, paths in files.items()
        }

    def _files_in_final(self) -> Iterator[tuple[str, Path]]:
        """Give the labels in ``labels/final``, by name, each with its image's id."""
        folder = Path(self._datastore.label_path(FINAL))
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if is_listed(name):
                yield split_ending(name)[0], folder / name

    def _final_path(self, image_id: str) -> Path:
        """Return the current annotation's file; a link isn't followed."""
        return Path(self._datastore.label_path(FINAL), image_id + self._datastore.objects[image_id].labels[FINAL].ext)

    def _is_own(self, image_id: str, path: Path) -> bool:
        """Tell whether a label in ``labels/final`` is as a server wrote it.

        One that an older server stored, without a checksum, is trusted, and so is one that can't be read now.
        """
        known, newest = self._current(image_id), self._newest_version(image_id)
        if path.name != self._label_path(image_id, FINAL).name or not (newest or "version" in known):
            return False
        if "version" in known and "crc32" not in known:
            return True
        try:
            written = self._crc32(path)
        except OSError:
            return True
        # A server that was killed in the midst of a submission may have written the newest and not noted it yet.
        return written == known.get("crc32") or (
            newest > 0 and written == self._crc32(Path(self.get_label_uri(image_id, f"{VERSION}{newest}")))
        )

    def _crc32(self, path: Path) -> int:
        """Return the checksum of a label's file, which is read only if it has changed since.

        Raises:
            OSError: it can't be read.
        """
        stamp = _stamp(path)
        if path not in self._crcs or self._crcs[path][0] != stamp:
            self._crcs[path] = stamp, crc32_of(path)
        return self._crcs[path][1]

    def _keep_ready_made(self, image_id: str) -> None:
        """Move what somebody put into ``labels/final`` aside before an annotation takes its place."""
        for path in [path for of, path in self._files_in_final() if of == image_id and not self._is_own(of, path)]:
            folder = Path(self._datastore.label_path(READY_MADE))
            folder.mkdir(exist_ok=True)
            there = (folder / f"{n}.{path.name}" if n else folder / path.name for n in itertools.count())
            kept = next(place for place in there if not place.exists())
            path.rename(kept)
            logger.warning("%s: an annotation takes its place; it is kept as %s", path, kept)

    def _newest_version(self, image_id: str) -> int:
        """Return the highest number of a version whose file is there; 0 for none."""
        return max(map(_version_number, self._datastore.objects[image_id].labels), default=0)

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


def _stamp(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written; nothing of one that is gone, or of a link to nowhere."""
    try:
        state = path.stat()
        return state.st_mtime_ns, state.st_size
    except OSError:
        return 0, 0


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


def _quoted(text: str) -> str:
    """Quote a word of a command for the shell that the person has."""
    return subprocess.list2cmdline([text]) if os.name == "nt" else shlex.quote(text)


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
