"""The images of the folder: their files, whether they can be read, and notes on their content."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from lib.core.errors import InputError
from lib.core.volumes.formats import endings, file_of, format_of
from lib.core.volumes.image_files import ImageFiles, all_files, files_of, image_path, with_data_file
from lib.core.volumes.reading import open_image, read_volume
from lib.core.volumes.volume import Volume

from .folder_store import FolderStore
from .label_files import Stamp, stamp_of
from .slicer_copies import SlicerCopies
from .studies import MOST_NAMED, describe_unused

logger = logging.getLogger(__name__)


class ImageStore(FolderStore):
    """Images in a folder; each is read again only after its files change."""

    def __init__(self, studies: str) -> None:
        """Open the folder ``studies``."""
        super().__init__(studies)
        self._readable: dict[str, object] = {}
        self._unreadable: dict[str, object] = {}
        self._checksums: dict[str, tuple[object, int]] = {}
        self._notes: dict[str, tuple[str, ...]] = {}
        self._header_notes: dict[Path, tuple[list[Stamp], tuple[str, ...]]] = {}
        self._copies = SlicerCopies(self.folder)

    def serve(self, watch: bool) -> None:
        """Make the index agree with the files, and keep it up to date; log which files aren't images.

        Args:
            watch: whether to notice files that others add or remove.
        """
        super().serve(watch)
        self._copies.tidy(self.list_images())
        if self.list_images():
            for line in self.describe_unused():
                logger.warning("Not taken from %s: %s", self._datastore_path, line)
        else:
            logger.warning(self.describe_emptiness())

    def describe_unused(self) -> list[str]:
        """Say which files in the folder aren't images, and what to do with them; a line for each kind of file."""
        taken = {path.name for image in self._images().values() for path in image.files}
        return describe_unused(Path(self._datastore_path), taken)

    def describe_emptiness(self) -> str:
        """Say why a folder has no image, and what to do."""
        unused = "; ".join(self.describe_unused())
        return f"{self._datastore_path}: there is no image to annotate in this folder" + (
            f", but {unused}"
            if unused
            else f"; put images into it, as {', '.join(endings())}, or as folders of DICOM files"
        )

    def describe_source(self) -> list[str]:
        """Say where images come from, if not from the folder, and what people should know of that."""
        return []

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of an image: see ``ImageFiles``; "" for an unknown image.

        A link isn't followed, because the files of the other channels lie beside the link.
        """
        entry = self._datastore.objects.get(image_id)
        folder = Path(os.path.realpath(self._datastore.image_path()))
        return str(image_path(folder, image_id, entry.image.ext)) if entry else ""

    def image_files(self, image_id: str) -> tuple[Path, ...]:
        """Return all files of an image, by channel.

        Raises:
            InputError: a file is missing, or a channel has two files.
        """
        files = tuple(map(file_of, files_of(Path(self.get_image_uri(image_id)))))
        for path in files:
            if not path.exists():
                raise InputError(f"{path}: no such file; put the file of the image {image_id!r} back into its place")
        return files

    def existing_files(self) -> list[Path]:
        """Return the files of all images, also of those that lack a channel, each once and sorted."""
        files = {path for image in self._images().values() for path in image.files}
        return [file for path in sorted(files) for file in all_files(path)]

    def path_for_slicer(self, image_id: str) -> Path:
        """Return the file that 3D Slicer should open: the image's own, of channel 0 if each has its own, or a copy.

        Raises:
            InputError: it needs a copy, and can't be read.
            OSError: it needs a copy, which can't be written.
        """
        path = Path(self.get_image_uri(image_id))
        return path if format_of(path).in_slicer else self._copies.of(image_id, path)

    def header_notes(self) -> list[str]:
        """Return what the files of images state or don't state, and a person should know; some for all."""
        notes = list[str]()
        for image_id in self.list_images():
            path = Path(self.get_image_uri(image_id))
            # Clients ask for these every few seconds.
            stamps = [stamp_of(file) for file in with_data_file(file_of(path))]
            known = self._header_notes.get(path)
            if known is None or known[0] != stamps:
                known = self._header_notes[path] = stamps, _notes_in_header(path)
            notes += known[1]
        more = [f"{len(notes) - MOST_NAMED} more notes on images"] if len(notes) > MOST_NAMED else []
        return notes[:MOST_NAMED] + more

    def check_image(self, image_id: str) -> None:
        """Check an image before it is offered to an annotator, whose paint would otherwise be refused later.

        The result is kept until one of the image's files changes.

        Raises:
            InputError: the image can't be used; ``is_unreadable`` returns True from then on.
        """
        state = self._state(image_id)
        if image_id in self._readable and self._readable[image_id] == state:
            return
        try:
            self._require_usable(image_id)
            self._readable[image_id] = state
        except InputError as error:
            self._unreadable[image_id] = state
            raise InputError(
                f"{error}. To go on with other images, press Next Sample again (strategy 'sparse' or 'next_slice')"
            ) from error

    def _require_usable(self, image_id: str) -> None:
        """Check that paint on an image can be used.

        Raises:
            InputError: the image can't be read.
        """
        self.checksum(image_id)

    def is_unreadable(self, image_id: str) -> bool:
        """Tell whether ``check_image`` refused an image that hasn't changed since."""
        return image_id in self._unreadable and self._unreadable[image_id] == self._state(image_id)

    def read_image(self, image_id: str) -> tuple[Volume, int]:
        """Read an image; return it with its checksum.

        Raises:
            InputError: it can't be read.
        """
        stamps = self._stamps(image_id)
        volume = read_volume(self.get_image_uri(image_id))
        self._checksums[image_id] = stamps, volume.checksum()
        if volume.notes and self._notes.get(image_id) != volume.notes:
            logger.warning("; ".join(volume.notes))
        self._notes[image_id] = volume.notes
        return volume, self._checksums[image_id][1]

    def notes(self, image_id: str) -> list[str]:
        """Return what the annotator should know of an image, as found when it was last read."""
        return list(self._notes.get(image_id, ()))

    def has_read(self, image_id: str) -> bool:
        """Tell whether the image was read and hasn't changed since, so that its checksum is known."""
        return image_id in self._checksums and self._checksums[image_id][0] == self._stamps(image_id)

    def checksum(self, image_id: str) -> int:
        """Return ``Volume.checksum`` of an image; read it only if it has changed.

        Raises:
            InputError: it can't be read.
        """
        return self._checksums[image_id][1] if self.has_read(image_id) else self.read_image(image_id)[1]

    def _stamps(self, image_id: str) -> list[tuple[Path, Stamp]]:
        """Return the stamps of all files of an image; for errors see ``image_files``."""
        return [(file, stamp_of(file)) for path in self.image_files(image_id) for file in with_data_file(path)]

    def _state(self, image_id: str) -> object:
        """Return a value that changes when somebody repairs an image."""
        return state_of(self._images().get(image_id))


def _notes_in_header(path: Path) -> tuple[str, ...]:
    """Return the notes of an image; none if Slicer opens it, which has its own, or if it can't be read."""
    with suppress(InputError):
        if not format_of(path).in_slicer:
            return open_image(path).notes
    return ()


def state_of(image: ImageFiles | None) -> object:
    """Return a value that changes when somebody repairs an image: its fault, and the stamps of its files."""
    return image and (image.fault, tuple(stamp_of(file) for path in image.files for file in with_data_file(path)))
