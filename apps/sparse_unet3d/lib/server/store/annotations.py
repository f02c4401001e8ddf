"""Reads the annotations of images, and their versions.

=============================  ======================================================================================
in the studies folder          what
=============================  ======================================================================================
``*.nii *.nii.gz *.nrrd``      images; ``case_0000.nii.gz``, ``case_0001.nii.gz``, … are the channels of one, ``case``
``labels/version_N/``          the N-th submission of an image, with the label scheme's values; never changed
``labels/final/``              the newest version; training uses it
``labels/original/``           the newest version for 3D Slicer to load: its list of names begins with the server's
``labels/prediction/``         the latest prediction
``labels/uncertainty/``        how uncertain that prediction is, 0 … 255
``labels/ready_made/``         what somebody put into ``labels/final/`` by hand, unchanged
``labels/TAG/ID.json``         the label info, see ``records``
``datastore_v2.json``          MONAI Label's index; the server rebuilds it from the above if it is lost or damaged
``datastore_v2.journal``       what has changed since the index was written, see ``journal``
=============================  ======================================================================================
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from monailabel.datastore.local import DataModel
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import endings
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map, read_volume
from lib.core.volumes.volume import Geometry, Placed, Volume
from lib.server.records import AnnotationInfo

from .final_folder import FinalFolder
from .fitting import require_fit
from .folder_store import READY_MADE
from .image_store import ImageStore

FINAL, ORIGINAL = "final", "original"
VERSION = "version_"
_NUMBERED = re.compile(rf"{VERSION}([1-9][0-9]{{0,8}})")


class AnnotationReader(ImageStore):
    """Images in a folder, the current annotation of each, and all its versions."""

    def __init__(self, studies: str) -> None:
        """Open the folder ``studies``."""
        super().__init__(studies)
        self._final = FinalFolder(Path(self._datastore.label_path(FINAL)), Path(self._datastore.label_path(READY_MADE)))

    # Versions

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the images that have an annotation; a label that isn't a version doesn't count."""
        return [image_id for image_id in self.list_images() if "version" in self.current(image_id)]

    def current(self, image_id: str) -> AnnotationInfo:
        """Return the label info of the current annotation; empty if there is none."""
        info: AnnotationInfo = self.get_label_info(image_id, FINAL)
        return info

    def versions(self, image_id: str) -> dict[int, AnnotationInfo]:
        """Return the label info of each version of an image's annotation, by number in ascending order."""
        labels = self._labels(image_id)
        return {
            number: labels[f"{VERSION}{number}"].info for number in sorted(filter(None, map(_version_number, labels)))
        }

    def _labels(self, image_id: str) -> Mapping[str, DataModel]:
        """Return what the index says of an image's labels; nothing if another thread has removed the image."""
        entry = self._datastore.objects.get(image_id)
        return entry.labels if entry else {}

    def version_file(self, image_id: str, version: int) -> Path:
        """Return the file of a version.

        Raises:
            InputError: there is no such image or version; lists those that exist.
        """
        if image_id not in self.list_images():
            raise InputError(
                f"image {image_id!r}: {self._datastore_path} has no image of this name; it has "
                f"{', '.join(self.list_images()) or 'none at all'}"
            )
        known = ", ".join(map(str, self.versions(image_id)))
        if version not in self.versions(image_id):
            raise InputError(f"image {image_id!r} has no version {version}; its versions: {known or 'none'}")
        return Path(self.get_label_uri(image_id, f"{VERSION}{version}"))

    def version_names(self, image_id: str, version: int) -> dict[str, int]:
        """Return the value of each class in a version's file, which may use another scheme than the server.

        Raises:
            InputError: they aren't stored.
        """
        names = self.versions(image_id)[version].get("label_names")
        if not names:
            raise InputError(
                f"{self._info_path(image_id, f'{VERSION}{version}')}: missing or without label_names, so the meaning "
                f"of the values in version {version} is unknown; restore this file from a copy of the folder"
            )
        return names

    def _newest_version(self, image_id: str) -> int:
        """Return the highest number of a version whose file exists; 0 if there is none."""
        return max(map(_version_number, self._labels(image_id)), default=0)

    def last_version(self, image_id: str) -> int:
        """Return the highest number ever used, even if the files of that version are gone."""
        numbers: list[int] = [self._datastore.objects[image_id].image.info.get("versions", 0)]
        numbers.append(self.current(image_id).get("version", 0))
        for folder in Path(self._datastore.label_path(None)).iterdir():
            number = _version_number(folder.name)
            if number > max(numbers) and any((folder / f"{image_id}{ext}").exists() for ext in (".json", *endings())):
                numbers.append(number)
        return max(numbers)

    # The current annotation

    def annotated_geometry(self, image_id: str) -> Geometry:
        """Return the geometry of an annotated image after checking, by headers alone, that training can use it.

        Raises:
            InputError: the image or its annotation is missing or unreadable, or they don't fit; says what to do.
        """
        self.image_files(image_id)
        self._require_own(image_id)
        image = read_geometry(self.get_image_uri(image_id))
        self._require_fit(image_id, read_geometry(self.get_label_uri(image_id, FINAL)), image)
        return image

    def annotated_volume(self, image_id: str, scheme: LabelScheme) -> tuple[Volume, NDArray[np.uint8]]:
        """Return an image and its annotation (X, Y, Z), 0 unlabelled, 1 … K+1.

        Raises:
            InputError: as ``annotated_geometry``; or the voxels can't be read, or have values outside the scheme.
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
                f"{label.name}: has voxels of value {label.array.max()}, the highest possible is "
                f"{scheme.background_value} ({scheme.describe()}); submit the annotation again"
            )
        x, y, z = label.array.shape
        self._require_fit(image_id, Geometry((x, y, z), label.affine, 1, label.array.dtype, name=label.name), image)
        return onto_grid(label, image).astype(np.uint8, copy=False)

    def _require_usable(self, image_id: str) -> None:
        """Check that paint on an image can be used.

        Raises:
            InputError: the image can't be read, or its annotation would appear in the wrong place, for example after
                the image's header was corrected.
        """
        super()._require_usable(image_id)
        if "version" in self.current(image_id):
            image, stored = (
                read_geometry(uri) for uri in (self.get_image_uri(image_id), self.get_label_uri(image_id, FINAL))
            )
            if stored.shape == image.shape:
                self._require_fit(image_id, stored, image)

    def _state(self, image_id: str) -> object:
        return super()._state(image_id), self.current(image_id).get("version")

    def _require_fit(self, image_id: str, stored: Geometry, image: Placed) -> None:
        require_fit(image_id, self.current(image_id)["version"], stored, image, self._datastore_path)

    # Who wrote labels/final

    def _final_path(self, image_id: str) -> Path:
        """Return the file of the current annotation; a link isn't followed."""
        label = self._labels(image_id).get(FINAL)
        return self._final.folder / f"{image_id}{label.ext}" if label else self._label_path(image_id, FINAL)

    def _require_own(self, image_id: str) -> None:
        """Refuse an annotation that somebody changed by hand, until a server has made a version of it.

        Raises:
            InputError: says what to do.
        """
        path = self._final_path(image_id)
        if not self._is_own(image_id, path):
            # Somebody may have submitted since the index was read, or may be submitting now.
            with self.held():
                pass
        path = self._final_path(image_id)
        if not self._is_own(image_id, path):
            raise InputError(
                f"{path}: somebody put this file there, and the server hasn't stored it as a version yet; restart the "
                "server, which stores it or says why it can't"
            )

    def _is_own(self, image_id: str, path: Path) -> bool:
        """Tell whether a label in ``labels/final`` is as a server wrote it.

        A label that an earlier version of this software stored without a checksum counts as the server's own, and so
        does one that can't be read at the moment.
        """
        known, newest = self.current(image_id), self._newest_version(image_id)
        if path.name != self._label_path(image_id, FINAL).name or not (newest or "version" in known):
            return False
        if "version" in known and "crc32" not in known:
            return True
        try:
            written = self._final.crc32(path)
        except OSError:
            return True
        # A server that was killed during a submission may have written the newest version without its info.
        return written == known.get("crc32") or (
            newest > 0 and written == self._final.crc32(Path(self.get_label_uri(image_id, f"{VERSION}{newest}")))
        )


def _version_number(tag: str) -> int:
    """Return N for ``version_N``; 0 for any other tag."""
    number = _NUMBERED.fullmatch(tag)
    return int(number[1]) if number else 0
