"""Decodes uploaded files in processes of their own, so that no file can harm the server.

Some files make the libraries that read them crash, loop without end, or allocate too much. Then only such a process
ends, the client gets a sentence, and the next file gets a new process. Files wait for a free process, but not too many
of them and not too long.
"""

import atexit
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from numpy.typing import NDArray

from lib.core.device.memory import total_memory
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.crop import Crop
from lib.core.volumes.volume import Volume
from lib.server.slicer.replies import busy
from lib.server.slicer.slice_names import SliceNames

from .submission import Submission

PROCESSES = 2
"""Files that are decoded at a time."""

MOST_WAITING = 30
"""Files that wait for a process at a time."""

LONGEST_WAIT = 60.0
"""Seconds that a file waits for a process."""

LONGEST = 120.0
"""Seconds that decoding a file may take."""

FRACTION, MOST_BY_DEFAULT = 4, 8 * 10**9
"""By default, decoding a file may take a fourth of the computer's memory, and 8 GB at most.

Two files are decoded at a time; the other half of the memory remains for training and segmenting. With 16 GB, a label
map of 1000×1000×1000 voxels of 16 bits can be decoded.
"""

MARGIN = 1 << 28
"""Bytes that a process may take besides those that a file may."""

_WATCH = 0.1
"""Seconds between two looks at the memory of a process."""

_PROGRAM = Path(__file__).parents[3] / "child.py"
_WORKER = "lib.server.store.decoding_worker"
"""The folder that the package ``lib`` is in."""


def default_limit() -> int:
    """Return how many bytes of memory decoding an uploaded file may take if nobody decides."""
    return min(total_memory() // FRACTION, MOST_BY_DEFAULT)


def decode_submission(
    label_file: str, image_file: str, label_info: object, scheme: LabelScheme, limit: int
) -> Submission:
    """Read a submitted label as ``read_submission`` does.

    Args:
        label_file, image_file, label_info, scheme: see ``read_submission``.
        limit: bytes of memory that decoding may take.

    Raises:
        InputError: see ``read_submission``; the file takes too long, or is one that libraries crash at.
        HTTPException: 503, too many files are waiting.
    """
    facts, (annotation,) = _decode(
        "submission",
        label_file,
        limit,
        image=os.path.abspath(image_file),
        label_info=label_info,
        scheme=[scheme.foreground, scheme.background],
    )
    return Submission(
        annotation,
        np.array(facts["affine"]),
        _affine(facts["slicer_affine"]),
        SliceNames.from_json(facts["slice_names"]),
        facts["warnings"],
    )


def decode_image(path: str, limit: int) -> Volume:
    """Read an image as ``read_file`` does; arguments and exceptions as of ``decode_submission``."""
    facts, (array, *outside) = _decode("image", path, limit)
    return Volume(
        array,
        np.array(facts["affine"]),
        _affine(facts["slicer_affine"]),
        path,
        facts["slicer_reverses"],
        outside[0] if outside else None,
        tuple(facts["notes"]),
        facts["crop"] and Crop.from_text(facts["crop"], Path(path), len(array)),
    )


def is_same_image(path: str, other: str | None, limit: int) -> bool:
    """Check that an image can be read, and tell whether it is the same as another one, if there is one.

    Arguments and exceptions are those of ``decode_submission``.
    """
    # Both images are in memory.
    facts, _ = _decode("comparison", path, limit, 2 * limit, other=other)
    return bool(facts["is_same"])


def start() -> None:
    """Start a process, so that the first file needn't wait for it."""
    with _PROCESSES.process():
        pass


def _affine(numbers: list[list[float]] | None) -> NDArray[np.float64] | None:
    return None if numbers is None else np.array(numbers)


def _decode(
    what: str, path: str, limit: int, memory: int | None = None, **options: object
) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Have a file decoded; return what ``decoding_worker.DECODERS`` says of it, and its arrays."""
    request = {
        "do": what,
        "path": os.path.abspath(path),
        "limit": limit,
        "memory": (memory or limit) + MARGIN,
        "seconds": LONGEST,
        **options,
    }
    with _PROCESSES.process() as process:
        facts, arrays = process.ask(request)
    if "error" in facts:
        raise InputError(facts["error"])
    return facts, arrays


class _Process:
    """A process that decodes files, one at a time."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", str(_PROGRAM), _WORKER, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads},
        )
        self._input, self._output = (
            cast(BufferedWriter, self._process.stdin),
            cast(BufferedReader, self._process.stdout),
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Have a file decoded. If that doesn't succeed, the process ends.

        Raises:
            InputError: the process ended.
        """
        line = json.dumps(request).encode() + b"\n"
        with self._watched(request) as fault:
            try:
                self._input.write(line)
                self._input.flush()
                facts, described = json.loads(self._output.readline())
                return facts, [self._array(np.dtype(name), shape) for name, shape in described]
            except (OSError, EOFError, ValueError) as error:
                code = self.end()
                why = fault[0] if fault else _describe_end(code)
                raise InputError(
                    f"{request['path']}: {why}; nothing of it was stored. Send it again. If that doesn't help, the "
                    "file is damaged; save it once more, or in another format"
                ) from error
            except BaseException:
                self.end()
                raise

    def _array(self, dtype: np.dtype[Any], shape: list[int]) -> NDArray[Any]:
        array = np.empty(math.prod(shape), dtype)
        if self._output.readinto(array.view(np.uint8).data) < array.nbytes:
            raise EOFError
        return array.reshape(shape)

    @contextmanager
    def _watched(self, request: Mapping[str, Any]) -> Iterator[list[str]]:
        """End the process if it takes too much time or memory; yield a list that then says so."""
        over, fault = threading.Event(), list[str]()
        ends = time.monotonic() + request["seconds"]

        def watch() -> None:
            with suppress(psutil.Error):
                process = psutil.Process(self._process.pid)
                most = process.memory_info().rss + request["memory"]
                while not over.wait(_WATCH):
                    if time.monotonic() > ends:
                        fault.append(f"reading it took more than {request['seconds']:g} s")
                    elif process.memory_info().rss > most:
                        fault.append(f"reading it took more than {request['limit'] / 1e9:.1f} GB of memory")
                    else:
                        continue
                    self._process.kill()
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield fault
        finally:
            over.set()
            watcher.join()

    def end(self) -> int:
        """End the process now, unless it has ended by itself; return its exit code."""
        # At the end of its output, a process that crashed may not quite be gone.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_WATCH)
        self._process.kill()
        for pipe in (self._input, self._output):
            with suppress(OSError):
                pipe.close()
        return self._process.wait()


def _describe_end(code: int) -> str:
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
    return f"the process that read it ended {how}"


class _Processes:
    """The processes of this server; each starts when a file needs it, and is replaced when it has ended."""

    def __init__(self) -> None:
        # The one that was used last is taken first, so that the others start only when needed.
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(PROCESSES):
            self._free.put(None)
        self._waiting, self._lock = 0, threading.Lock()

    @contextmanager
    def process(self) -> Iterator[_Process]:
        """Wait for a process and use it.

        Raises:
            HTTPException: 503, too many files are waiting, or it took too long.
        """
        with self._lock:
            if self._waiting >= MOST_WAITING:
                busy(f"{self._waiting} uploaded files are waiting to be read; send this one again in a minute")
            self._waiting += 1
        try:
            process = self._free.get(timeout=LONGEST_WAIT)
        except queue.Empty:
            busy(f"other uploaded files have taken over {LONGEST_WAIT:g} s to be read; send this one again in a minute")
        finally:
            with self._lock:
                self._waiting -= 1
        try:
            if process and not process.is_alive:
                process.end()
                process = None
            process = process or _Process()
            yield process
        except OSError as error:
            busy(f"no process to read uploaded files can be started ({error}); send this one again in a minute")
        finally:
            self._free.put(process if process and process.is_alive else None)

    def end(self) -> None:
        """End all processes that aren't at work."""
        with suppress(queue.Empty):
            while True:
                if process := self._free.get_nowait():
                    process.end()


_PROCESSES = _Processes()

atexit.register(_PROCESSES.end)
