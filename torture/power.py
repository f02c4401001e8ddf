"""Power cuts: a record of what was written is replayed to each point, and what wasn't synced is lost or reordered."""

import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lib.core.model.folder import ModelFolder
from lib.server.store.datastore import AnnotationStore
from serving import write_image
from stores import SCHEME

from .disk import Disk, State, read_folder, write_folder
from .ledger import Ledger, ModelLedger, leftovers
from .outcome import Outcome, Row, announce
from .recorded import Call, record, said
from .storing import IMAGES, Notes

ROW = Row(
    "power",
    "power cut: recorded operations replayed to every prefix, what wasn't synced lost, kept in part or reordered",
    "every acknowledged version in each state, whole",
)

MEMORY_DISK = Path("/dev/shm")


def measure(folder: Path, samples: int, every: int = 1, seed: int = 0) -> Outcome:
    """Record, replay and check.

    Args:
        folder: an empty one.
        samples: random states at each point, of each rule of ``disk``.
        every: only each n-th point is checked.
        seed: of the random choices.
    """
    studies, temporary = folder / "studies", folder / "tmp"
    for path in (studies, temporary):
        path.mkdir()
    for image in IMAGES:
        write_image(studies / f"{image}.nii.gz")
    before = read_folder(studies)
    calls = record(studies, temporary)
    replay = _Replay(studies, before)
    chance, notes = random.Random(seed), Notes()
    ledger, models = notes.ledger, notes.models
    outcome, seen, points = Outcome(), set[bytes](), 0
    place = Path(tempfile.mkdtemp(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else folder, prefix="torture-"))
    try:
        for number, call in enumerate(calls):
            if words := said(call):
                outcome.faults += notes.take(*words)
            elif not replay.carry_out(call):
                continue
            points += 1
            if points % every:
                continue
            for state in replay.disk.states(chance, samples):
                key = _key(state, ledger.count(), len(models.acknowledged))
                if key not in seen:
                    seen.add(key)
                    found = _faults(place / "studies", state, ledger, models)
                    outcome.faults += [f"call {number} ({call.name}), state {len(seen)}: {fault}" for fault in found]
            if points % 50 == 0:
                announce(f"power: {points} points, {len(seen)} states, {len(outcome.faults)} faults")
    finally:
        shutil.rmtree(place)
    there, replayed = read_folder(studies), replay.all_kept()
    if differ := [
        path for path in {**there, **replayed} if (path, there.get(path)) not in replayed.items() or path not in there
    ]:
        outcome.faults.append(f"the replay ends with other files than the recorded process: {', '.join(differ)}")
    versions = ledger.count()
    outcome.facts = {"points": points // every, "states": len(seen), "versions": versions, "calls": len(calls)}
    outcome.measured = (
        f"{len(seen)} different states at {points // every} points of a record of {versions} submissions, "
        f"imports and restores and {len(models.acknowledged)} published models"
    )
    return outcome


def _key(state: State, *acknowledged: int) -> bytes:
    digest = hashlib.sha256(repr(acknowledged).encode())
    for path, content in sorted(state.items()):
        digest.update(repr((path, None if content is None else hashlib.sha256(content).digest())).encode())
    return digest.digest()


def _faults(studies: Path, state: State, ledger: Ledger, models: ModelLedger) -> list[str]:
    """Start the store on a state, and compare."""
    shutil.rmtree(studies, ignore_errors=True)
    write_folder(studies, state)
    try:
        AnnotationStore(str(studies), SCHEME).serve(watch=False)
        folder = ModelFolder(studies / "models")
        folder.remove_abandoned()
    except Exception as error:
        return [f"doesn't start: {error!r}"]
    faults = [*ledger.faults(studies, thorough=True), *models.faults(folder.path)]
    return [*faults, *leftovers(studies, studies)]


class _Replay:
    """Carries out recorded calls on a simulated disk."""

    def __init__(self, studies: Path, before: State) -> None:
        self.disk = Disk(before)
        self._studies = studies
        self._open: dict[str, _Open] = {}

    def all_kept(self) -> State:
        """Return the folder as if the power hadn't failed."""
        return next(iter(self.disk.states(random.Random(0), 0)))

    def carry_out(self, call: Call) -> bool:
        """Carry out a call; tell whether it changed what may be on the disk."""
        name, words = call.name, call.words
        if name in ("open", "openat", "creat"):
            return self._open_file(call)
        if name in ("link", "linkat", "rename", "renameat", "renameat2"):
            paths = [self._path(word) for word in words if isinstance(word, bytes)]
            return self._with_two_names(name.rstrip("at2") if name != "link" else name, paths)
        if name in ("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "truncate"):
            path = next(self._path(word) for word in words if isinstance(word, bytes))
            return path is not None and self._with_one_name(name, path, words)
        opened = self._open.get(str(words[0])) if words else None
        if opened is None:
            return False
        if name == "close":
            del self._open[str(words[0])]
            return False
        return opened.carry_out(call, self._open)

    def _path(self, word: bytes) -> str | None:
        """Return a path below the folder; None if it leads elsewhere."""
        try:
            path = Path(word.decode()).relative_to(self._studies).as_posix()
            return "" if path == "." else path
        except ValueError:
            return None

    def _open_file(self, call: Call) -> bool:
        word, flags = next((w, call.words[n + 1]) for n, w in enumerate(call.words) if isinstance(w, bytes))
        path = self._path(word)
        if path is None:
            return False
        options = set(str(flags).split("|"))
        is_new = path not in self.disk.names
        number = self.disk.create(path) if is_new and "O_CREAT" in options else self.disk.names[path]
        if is_cut := not is_new and "O_TRUNC" in options and self.disk.size(number) > 0:
            self.disk.write(number, 0, None)
        self._open[str(call.result)] = _Open(self.disk, path, number, options)
        return is_new or is_cut

    def _with_two_names(self, name: str, paths: list[str | None]) -> bool:
        source, target = paths
        if source is None and target is None:
            return False
        if source is None or target is None:
            raise NotImplementedError(f"{name} from outside of the folder: {paths}")
        (self.disk.link if name.startswith("link") else self.disk.rename)(source, target)
        return True

    def _with_one_name(self, name: str, path: str, words: tuple[bytes | str, ...]) -> bool:
        if name == "truncate":
            self.disk.write(self.disk.names[path], int(str(words[1])), None)
        else:
            act: Callable[[str], None] = self.disk.make_folder if name.startswith("mkdir") else self.disk.remove
            act(path)
        return True


class _Open:
    """An open file or folder."""

    def __init__(self, disk: Disk, path: str, number: int, options: set[str]) -> None:
        self._disk, self._path, self._number, self._options = disk, path, number, options
        self._position = 0

    def carry_out(self, call: Call, others: dict[str, "_Open"]) -> bool:
        """Carry out a call; tell whether it changed what may be on the disk."""
        name, words, count = call.name, call.words, call.result
        if name == "read":
            self._position += count
        elif name == "lseek":
            self._position = count
        elif name in ("fsync", "fdatasync"):
            if self._number < 0:
                self._disk.sync_folder(self._path)
            else:
                self._disk.sync(self._number)
            return True
        elif name == "write":
            self._write(bytes(words[1])[:count])  # type: ignore[arg-type]
            return True
        elif name == "writev":
            self._write(b"".join(word for word in words if isinstance(word, bytes))[:count])
            return True
        elif name == "sendfile" and count:
            source = others[str(words[1])]
            content = self._disk.content(source._number)[source._position :][:count]
            if len(content) < count:
                raise NotImplementedError("a copy of a file outside of the folder")
            source._position += count
            self._write(content)
            return True
        elif name in ("pwrite64", "copy_file_range", "ftruncate", "dup", "dup2", "sync_file_range"):
            raise NotImplementedError(f"{name} on {self._path}")
        return False

    def _write(self, content: bytes) -> None:
        if "O_APPEND" in self._options:
            self._position = self._disk.size(self._number)
        self._disk.write(self._number, self._position, content)
        self._position += len(content)
        if "O_DSYNC" in self._options or "O_SYNC" in self._options:
            self._disk.sync(self._number)
