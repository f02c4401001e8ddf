"""What was changed since the index was written: a file that only grows, with a line of JSON for each change.

==================================  ================================================================================
line                                what
==================================  ================================================================================
``{"journal": ID}``                 the first line; each time the index is written, a journal with another id begins
``{"undo": [[FILE, KEPT], …]}``     files are being changed; how to undo that, see ``put_back``
``{"set": {IMAGE: …}}``             a change is complete: what the index says of these images now
==================================  ================================================================================

A change of files counts once its ``set`` line is on the disk. If ``undo`` is the last line, the change isn't complete.
"""

import json
import logging
import os
import uuid
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from lib.core.files import replace, replacing, sync_file, sync_folder

from .stored_info import parse_json

logger = logging.getLogger(__name__)

SYNCED = getattr(os, "O_DSYNC", 0)
"""Makes writing and syncing one step, which fails as a whole; 0 on Windows."""

Undo = list[tuple[str, str | None]]
"""Changed files, and where what they were is kept (None: there was no such file), as paths below the folder."""


class Journal:
    """The journal of a folder. All methods that write need the folder's lock.

    Attributes:
        name: name of its file.
        pending: how to undo the change that isn't complete. Who holds the lock knows that it was cut short.
    """

    def __init__(self, path: Path) -> None:
        """Use the file ``path``, which need not exist yet."""
        self._path, self.name = path, path.name
        self._id: str | None = None
        self.pending: Undo | None = None
        # The end of the last complete change. What follows is a change that isn't complete, or is unknown here.
        self._end = 0
        self._begun = b""
        self._refused = b""

    def is_other(self) -> bool:
        """Tell whether a new journal has begun since this one was read, so that the index must be read again."""
        return self._read_id() != self._id

    def restart(self) -> None:
        """Read the journal that is there now from its beginning."""
        self._id, self._end, self._refused = self._read_id(), 0, b""

    def read(self) -> list[dict[str, Any]]:
        """Return the changes that were completed since the last call."""
        content = self._content()
        if content and self._refused.startswith(content):
            # The disk failed when this process wrote it, and then when it removed it.
            content = content[: len(self._begun)]
        changes, at = list[dict[str, Any]](), self._end
        self.pending = None
        # The last piece is empty, or a line of which only a part was written.
        for line in content.split(b"\n")[:-1]:
            begin, at = at, at + len(line) + 1
            try:
                record = parse_json(line)
                if "undo" in record:
                    self.pending = [(_checked(file), kept and _checked(kept)) for file, kept in record["undo"]]
                    continue
                if "set" in record:
                    changes.append(dict(record["set"]))
            except (ValueError, TypeError, RecursionError):
                logger.error("%s: the line at byte %d is damaged and isn't used", self._path, begin)
            self.pending, self._end = None, at
        return changes

    def has_news(self) -> bool:
        """Tell whether anything follows what was read."""
        try:
            return self._path.stat().st_size != self._end
        except FileNotFoundError:
            return self._end != 0

    def unfinished(self) -> list[str]:
        """Return the files that the change that isn't complete adds."""
        return [name for name, kept in self.pending or () if kept is None]

    def size(self) -> int:
        """Return the size of all complete changes, in bytes."""
        return self._end

    def begin_new(self) -> None:
        """Begin an empty journal, because the index holds all changes."""
        name = uuid.uuid4().hex
        first = json.dumps({"journal": name}).encode() + b"\n"
        with replacing(self._path) as beside:
            beside.write_bytes(first)
        self._id, self._end = name, len(first)

    def begin(self, undo: Undo) -> None:
        """Note on the disk how to undo the change of files that follows.

        Raises:
            OSError: it can't be noted.
        """
        self._begun = self._append({"undo": undo})

    def complete(self, change: dict[str, Any]) -> None:
        """Note on the disk that a change is complete, and what the index says now.

        Raises:
            OSError: it can't be noted.
        """
        self._end += len(self._begun) + len(self._append({"set": change}))
        self._begun = b""

    def heal(self) -> None:
        """Undo the change that was cut short, as ``read`` found it.

        Raises:
            OSError: it can't be undone now; what is left to do stays noted.
        """
        if self.pending is not None:
            logger.warning("%s: a change that was cut short is undone", self._path.parent)
        self.undo(self.pending or [])

    def undo(self, done: Undo) -> None:
        """Undo a change of files, and remove what was written of it here.

        Args:
            done: what was done of it.

        Raises:
            OSError: as ``heal``.
        """
        put_back(self._path.parent, done)
        if self._content():
            os.truncate(self._path, self._end)
            with suppress(OSError):
                sync_file(self._path)
        self.pending, self._begun, self._refused = None, b"", b""

    def _append(self, record: dict[str, Any]) -> bytes:
        if self._id is None:
            self.begin_new()
        line = json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        self._refused = self._begun + line
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | SYNCED | getattr(os, "O_BINARY", 0))
        try:
            written = 0
            while written < len(line):
                written += os.write(handle, line[written:])
            if not SYNCED:
                os.fsync(handle)
        finally:
            os.close(handle)
        self._refused = b""
        return line

    def _content(self) -> bytes:
        """Return what follows the last complete change."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._end)
                return file.read()
        except FileNotFoundError:
            return b""

    def _read_id(self) -> str | None:
        try:
            with self._path.open("rb") as file:
                return str(json.loads(file.readline(100))["journal"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            return ""


def put_back(folder: Path, undo: Undo) -> None:
    """Undo changes of files below a folder; may be called again after it failed or was cut short.

    Raises:
        OSError: a file can't be put back.
    """
    changed = set()
    for name, kept in reversed(undo):
        path = folder / name
        if kept is None:
            path.unlink(missing_ok=True)
        elif os.path.lexists(folder / kept):
            replace(folder / kept, path)
            # Renaming a file to another name of itself does nothing.
            (folder / kept).unlink(missing_ok=True)
            changed.add((folder / kept).parent)
        changed.add(path.parent)
    for parent in changed:
        if parent.is_dir():
            sync_folder(parent)


def _checked(name: str) -> str:
    """Refuse a path that leads out of the folder."""
    path = PurePath(name)
    if path.anchor or ".." in path.parts:
        raise ValueError(name)
    return name
