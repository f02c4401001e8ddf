"""Files and bodies that crash, hang or fill careless servers, sent to a real one."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import psutil
import requests

from bombs import BOMBS
from serving import NAMED, PATIENCE, Server, snapshot

from .annotator import start_server
from .outcome import Outcome, Row, announce
from .processes import memory_of

ROW = Row(
    "bombs",
    "bombs: gzip, declared sizes, line skips, deep JSON, huge multipart",
    "refused within 5 s; the server's memory bounded",
)

UPLOAD = 200_000_000
"""Bytes that an uploaded file may take."""

LONGEST = 5.0
"""Seconds within which each bomb must be answered."""

MOST_MEMORY = int(1.2 * UPLOAD)
"""Bytes that the server itself may take more than before."""

MOST_DECODING = 2 * UPLOAD + (1 << 29)
"""Bytes that a process that decodes may take: two images, what the server allows besides, and Python."""


def measure(folder: Path, names: list[str] | None = None, timed: bool = True) -> Outcome:
    """Send bombs as a label, as an image, and to be segmented; and bodies that are bombs.

    Args:
        folder: an empty one.
        names: of the bombs in ``bombs``; all by default.
        timed: whether slow answers count as faults.
    """
    server = start_server(folder, ("a",), upload=str(UPLOAD / 1e9))
    outcome, longest, before = Outcome(), (0.0, ""), snapshot(server.studies)
    try:
        with _Memory(server) as memory:
            for number, (name, ask) in enumerate(_requests(server, folder, names or list(BOMBS))):
                begin = time.monotonic()
                try:
                    reply = ask()
                    if not 400 <= reply.status_code < 500 or len(reply.text) < 5:
                        outcome.faults.append(f"{name}: answered by {reply.status_code}: {reply.text[:200]}")
                    if "root:" in reply.text:
                        outcome.faults.append(f"{name}: another file was read")
                except requests.exceptions.ConnectionError:
                    # A body that is too large is refused before all of it is read.
                    if "body" not in name:
                        outcome.faults.append(f"{name}: the connection was closed")
                longest = max(longest, (time.monotonic() - begin, name))
                if timed and time.monotonic() - begin > LONGEST:
                    outcome.faults.append(f"{name}: answered after {time.monotonic() - begin:.1f} s")
                if number % 60 == 59:
                    announce(f"bombs: {number + 1} requests, {len(outcome.faults)} faults")
        if not server.get("/info/").ok:
            outcome.faults.append("/info isn't answered afterwards")
    finally:
        server.process.kill()
        server.process.wait()
    if snapshot(server.studies) != before:
        outcome.faults.append("a stored file changed")
    outcome.faults += memory.faults()
    outcome.facts = {
        "requests": number + 1,
        "longest_seconds": round(longest[0], 2),
        "longest_name": longest[1],
        "server_mb": [memory.first // 10**6, memory.server // 10**6],
        "decoding_mb": memory.decoding // 10**6,
    }
    outcome.measured = (
        f"{number + 1} requests with {len(names or BOMBS)} files, all answered within {longest[0]:.1f} s "
        f"({longest[1]}); the server took {memory.first / 1e6:.0f} MB at first and {memory.server / 1e6:.0f} MB at "
        f"most, a process that decodes {memory.decoding / 1e6:.0f} MB; `--conf upload {UPLOAD / 1e9:g}`"
    )
    return outcome


class _Memory:
    """Looks at the memory of the server and its processes in the background; all in bytes."""

    def __init__(self, server: Server) -> None:
        self._process, self._tmp = psutil.Process(server.process.pid), server.tmp
        self.first = self.server = memory_of(self._process)
        self.decoding = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.server = max(self.server, memory_of(self._process))
            children = self._process.children() if self._process.is_running() else []
            self.decoding = max([self.decoding, *map(memory_of, children)])

    def faults(self) -> list[str]:
        """Return what took too much."""
        faults = []
        if self.server > self.first + MOST_MEMORY:
            faults.append(f"the server took {self.server / 1e6:.0f} MB, {self.first / 1e6:.0f} MB before")
        if self.decoding > MOST_DECODING:
            faults.append(f"a process that decodes took {self.decoding / 1e6:.0f} MB")
        return faults


def _requests(server: Server, folder: Path, names: list[str]) -> Iterator[tuple[str, Callable[[], requests.Response]]]:
    """Yield each request with its name."""
    for name in names:
        file = folder / name
        file.write_bytes(content := BOMBS[name]())
        yield f"{name} as label", partial(server.put_label, "a", file, NAMED)
        yield f"{name} as image", partial(server.put_image, "new", file)
        # The voxels of these are fine, and can be segmented.
        if b"Segment0_" not in content[:1000]:
            url, files = f"{server.url}/infer/sparse_unet3d", {"file": (name, content)}
            yield f"{name} to segment", partial(_post, url, data={"params": "{}"}, files=files)
        file.unlink()
    deep = {
        "deep list": b"[" * 200_000,
        "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "long number": b'{"max_epochs": ' + b"9" * 500_000 + b"}",
        "many keys": b"{" + b",".join(b'"k%d":1' % key for key in range(60_000)) + b"}",
        "spaces": b" " * (1 << 26),
    }
    sound = {"content-type": "application/json"}
    for name, body in deep.items():
        url = f"{server.url}/train/sparse_unet3d"
        yield f"{name} as body", partial(_post, url, data=body, headers=sound)
        if len(body) < 1 << 22:
            url, sent = f"{server.url}/infer/next_slices?image=a", {"params": body}
            yield f"{name} as params", partial(_post, url, data=sent)
    url = f"{server.url}/datastore/label?image=a"
    form = {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\ncontent-disposition: form-data; name="label"; filename="l.nii.gz"\r\n\r\n'
    for name, pieces in {
        "huge multipart": (part, *[bytes(1 << 24)] * 64),
        "a million fields": (b'--x\r\ncontent-disposition: form-data; name="f"\r\n\r\nx\r\n' * 10_000,) * 100,
        "endless header": (b"--x\r\n", *[b"a" * (1 << 20)] * 100),
    }.items():
        yield (
            f"{name} as body",
            partial(requests.put, url, data=iter(pieces), headers=form, timeout=PATIENCE),
        )


def _post(url: str, **sent: object) -> requests.Response:
    known: Mapping[str, object] = {"timeout": PATIENCE, **sent}
    return requests.post(url, **known)  # type: ignore[arg-type]
