"""The process that decodes uploaded files, one after the other, for ``decoding``.

It reads requests from its input, a line of JSON each. To its output it writes a line of JSON, and then the bytes of the
arrays that the line describes. It ends with its input, so that it doesn't outlive the server.
"""

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.orphan import outlive_parent
from lib.core.volumes.reading import read_file, read_volume

from .submission import read_submission

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

Answer = tuple[dict[str, Any], Sequence[NDArray[Any]]]
"""What is known of a decoded file, as JSON, and arrays."""

LONGEST_MESSAGE = 2000
"""Characters of a message. Names in a header can be as long as the header."""


def submission(request: Mapping[str, Any]) -> Answer:
    """Read a submitted label; see ``read_submission``."""
    foreground, background = request["scheme"]
    scheme = LabelScheme(tuple(foreground), background)
    found = read_submission(request["path"], request["image"], request["label_info"], scheme, limit=request["limit"])
    facts = {
        "affine": found.affine.tolist(),
        "slicer_affine": None if found.slicer_affine is None else found.slicer_affine.tolist(),
        "slice_names": found.slice_names.to_json(),
        "warnings": found.warnings,
    }
    return facts, [found.annotation]


def image(request: Mapping[str, Any]) -> Answer:
    """Read an image; see ``read_file``."""
    found = read_file(request["path"], request["limit"])
    facts = {
        "affine": found.affine.tolist(),
        "slicer_affine": None if found.slicer_affine is None else found.slicer_affine.tolist(),
        "slicer_reverses": found.slicer_reverses,
        "notes": found.notes,
        "crop": found.crop and found.crop.to_text(),
    }
    return facts, [found.array, *([] if found.outside is None else [found.outside])]


def comparison(request: Mapping[str, Any]) -> Answer:
    """Read an image, and tell whether it is the same as another one, if there is one."""
    found, other = read_file(request["path"], request["limit"]), request["other"]
    if other is None:
        return {"is_same": False}, []
    there = read_volume(other)
    is_same = np.array_equal(there.array, found.array) and np.allclose(there.affine, found.affine)
    return {"is_same": is_same}, []


DECODERS: dict[str, Callable[[Mapping[str, Any]], Answer]] = {
    "submission": submission,
    "image": image,
    "comparison": comparison,
}
"""What a request can ask for, by its key ``do``."""


def main() -> None:
    """Answer requests until the input ends."""
    outlive_parent()
    # Libraries may print; that goes to the server's log.
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        # Ctrl-C in a terminal reaches all of its processes; the server then ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for request in _requests(sys.stdin.buffer):
            with _limited(request["memory"], request["seconds"]):
                facts, arrays = _answer(request)
            described = [(array.dtype.str, array.shape) for array in arrays]
            output.write(json.dumps([facts, described]).encode() + b"\n")
            for array in arrays:
                output.write(np.ascontiguousarray(array).data)
            output.flush()


def _requests(lines: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the requests, and end the process once the input ends, even in the midst of a request."""
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        for line in lines:
            received.put(line)
        os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        yield json.loads(received.get())


def _answer(request: Mapping[str, Any]) -> Answer:
    try:
        return DECODERS[request["do"]](request)
    except InputError as error:
        message = str(error)
    except MemoryError:
        message = (
            f"{request['path']}: decoding takes more than {request['limit'] / 1e9:.1f} GB, which is the most for an "
            "uploaded file; make the volume smaller, or start the server with a larger --conf upload"
        )
    except Exception as error:
        logger.exception("An uploaded file can't be decoded")
        message = f"{request['path']}: cannot be decoded ({error!r}); the file is damaged, copy or export it again"
    # Lone halves of surrogate pairs stand for bytes that aren't UTF-8.
    return {"error": message[:LONGEST_MESSAGE].encode(errors="replace").decode()}, []


@contextlib.contextmanager
def _limited(memory: int, seconds: float) -> Iterator[None]:
    """Limit the memory that the block allocates, in bytes, and its time, where the operating system does that.

    Elsewhere, only the server limits both, and notices an allocation once it is made.
    """
    if sys.platform == "win32":
        yield
        return
    used, (former, most) = psutil.Process().memory_info().vms, resource.getrlimit(resource.RLIMIT_AS)
    # macOS knows this limit but neither keeps it nor always accepts it.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, most))
    # The server may be gone.
    signal.alarm(int(seconds) + 1)
    try:
        yield
    finally:
        signal.alarm(0)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (former, most))
