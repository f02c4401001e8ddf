"""What may be on a disk after the power fails: synced is kept, all else is kept, lost, or kept in part.

Two rules say which renames, links and removals survive:

- ``ext4`` (data=ordered): they are written in their order, and each sync of a file or folder writes all before it.
- ``any order``: each survives or not by itself, until its own folder is synced. No file system is known to be worse.

The content of a file is what was synced, and then a beginning of what was written since, whatever became of its name.
"""

import posixpath
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

State = Mapping[str, bytes | None]
"""The content of each file, None for folders, by the path below the folder."""

FOLDER = -1


@dataclass
class _File:
    """A file: its synced content, and what was written since, as (position, bytes); no bytes: cut there."""

    synced: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, count: int | None = None, half: bool = False) -> bytes:
        """Return the content after the first ``count`` writings (all by default), and half of the next one."""
        content = bytearray(self.synced)
        writings = self.since if count is None else self.since[: count + half]
        for number, (position, written) in enumerate(writings):
            if written is None:
                del content[position:]
                continue
            if half and number == count:
                written = written[: len(written) // 2]
            content[len(content) :] = bytes(max(0, position - len(content)))
            content[position : position + len(written)] = written
        return bytes(content)


@dataclass
class _Naming:
    """A change of names that happens as a whole.

    Attributes:
        names: the file's number, or ``FOLDER``, by path; None where the name is removed.
        folder: whose sync makes it survive.
        synced: whether that happened.
    """

    names: dict[str, int | None]
    folder: str
    synced: bool = False


class Disk:
    """A folder on a disk. Paths are relative to the folder; "" is the folder itself."""

    def __init__(self, content: State) -> None:
        """Begin with a content that is synced."""
        self._files: list[_File] = []
        self._synced: dict[str, int] = {"": FOLDER}
        for path, written in content.items():
            self._synced[path] = FOLDER if written is None else self._new(written)
        self._namings: list[_Naming] = []
        self._committed = 0
        self.names = dict(self._synced)

    def _new(self, content: bytes = b"") -> int:
        self._files.append(_File(content))
        return len(self._files) - 1

    def create(self, path: str) -> int:
        """Create a file; return its number."""
        number = self._new()
        self._name({path: number}, path)
        return number

    def make_folder(self, path: str) -> None:
        """Create a folder."""
        self._name({path: FOLDER}, path)

    def rename(self, source: str, target: str) -> None:
        """Rename a file, over another one if there is one."""
        if self.names[source] == FOLDER:
            raise NotImplementedError(f"a folder was renamed: {source}")
        # To rename a file to another name of itself does nothing.
        if self.names.get(target) != self.names[source]:
            self._name({source: None, target: self.names[source]}, target)

    def link(self, source: str, target: str) -> None:
        """Give a file another name."""
        self._name({target: self.names[source]}, target)

    def remove(self, path: str) -> None:
        """Remove a name."""
        self._name({path: None}, path)

    def _name(self, names: dict[str, int | None], path: str) -> None:
        _apply(self.names, names)
        self._namings.append(_Naming(names, posixpath.dirname(path)))

    def write(self, number: int, position: int, content: bytes | None) -> None:
        """Write into a file; None cuts it."""
        self._files[number].since.append((position, content))

    def size(self, number: int) -> int:
        """Return the size of a file in bytes."""
        return len(self.content(number))

    def content(self, number: int) -> bytes:
        """Return the content of a file."""
        return self._files[number].content()

    def sync(self, number: int) -> None:
        """Sync a file."""
        file = self._files[number]
        file.synced, file.since = file.content(), []
        self._committed = len(self._namings)

    def sync_folder(self, path: str) -> None:
        """Sync a folder."""
        for naming in self._namings:
            naming.synced |= naming.folder == path
        self._committed = len(self._namings)

    def states(self, chance: random.Random, samples: int) -> Iterator[State]:
        """Yield what may be there after the power failed now.

        Args:
            chance: chooses.
            samples: how many random states of each rule to yield, besides those in which everything that may be lost
                or kept is.
        """
        every = len(self._namings)
        lost = [naming.synced for naming in self._namings]
        for kept in (
            [True] * every,
            [number < self._committed for number in range(every)],
            lost,
        ):
            yield self._state(kept, None)
            yield self._state(kept, chance, lose_all=True)
        for _ in range(samples):
            until = chance.randint(self._committed, every)
            yield self._state([number < until for number in range(every)], chance)
            yield self._state([synced or chance.random() < 0.5 for synced in lost], chance)

    def _state(self, kept: list[bool], chance: random.Random | None, lose_all: bool = False) -> State:
        names = dict(self._synced)
        for keep, naming in zip(kept, self._namings, strict=True):
            if keep:
                _apply(names, naming.names)
        contents: dict[int, bytes] = {}
        for number in set(names.values()) - {FOLDER}:
            file = self._files[number]
            if chance is None or not file.since:
                contents[number] = file.content()
            elif lose_all:
                contents[number] = file.synced
            else:
                contents[number] = file.content(chance.randint(0, len(file.since)), chance.random() < 0.5)
        reachable: dict[str, bytes | None] = {}
        for path, number in sorted(names.items()):
            parent = posixpath.dirname(path)
            if path and (not parent or reachable.get(parent, b"") is None):
                reachable[path] = None if number == FOLDER else contents[number]
        return reachable


def _apply(names: dict[str, int], changes: Mapping[str, int | None]) -> None:
    for path, number in changes.items():
        if number is None:
            names.pop(path, None)
        else:
            names[path] = number


def read_folder(folder: Path) -> State:
    """Return the content of a folder."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def write_folder(folder: Path, state: State) -> None:
    """Write the content of a folder."""
    folder.mkdir()
    for path, content in sorted(state.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)
