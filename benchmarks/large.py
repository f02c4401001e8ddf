"""An annotator's waiting times on a large volume, a synthetic CT of 512×512×300, with the real server.

The steps are those of the first round: submit seven painted slices, train until a model is published, run it, accept a
slice, ask for the next one, submit again. Finally the server is told to end during *Run*.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import psutil
import requests
from numpy.typing import NDArray

from lib.commands.errors import ServerError

from .results import Entry, LargeEntry
from .timing import Announce, BenchmarkOptions, SideError

if TYPE_CHECKING:
    # A rented machine may lack MONAI Label.
    from monailabel.client import MONAILabelClient

KEYS: tuple[str, ...] = ("large",)

SHAPE = (512, 512, 300)
VOXEL_SIZE = (0.8, 0.8, 1.0)
PAINTED = {0: (200, 300), 1: (180, 260), 2: (80, 150, 220)}
"""The painted slices by axis."""

SEGMENTS = ("inside (predicted)", "tubule (predicted)", "annotate here", "inside", "tubule", "outside")
"""The segments that 3D Slicer exports, in this order."""

BARS = {
    "submit": 3.0,
    "submit with a prediction": 3.0,
    "first published model": 90.0,
    "Next Sample (sparse)": 2.0,
    "Next Sample (next_slice)": 2.0,
    "accept_slice": 2.0,
    "end during Run": 5.0,
}
"""Targets in seconds."""

MEMORY_BARS = {"submit": 2.5 * 2 * SHAPE[0] * SHAPE[1] * SHAPE[2] / 1e9, "training": 4.0}
"""Targets in GB: of the server above its idle state, and of the training process."""

POLL = 0.2
"""Seconds between two checks."""

PATIENCE = 3600
"""Seconds after which a request counts as hanging."""


def generate() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Make a body of soft tissue in air that contains balls of two kinds: int16 HU, and classes 1, 2, 3 (outside)."""
    generator = np.random.default_rng(0)
    image, classes = np.full(SHAPE, -1000, np.int16), np.full(SHAPE, 3, np.uint8)
    x, y, _ = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    body = ((x - 256) / 200) ** 2 + ((y - 256) / 150) ** 2 < 1
    image[np.broadcast_to(body, SHAPE)] = 40
    for number in range(40):
        centre, radius = generator.integers((100, 130, 20), (410, 380, 280)), generator.integers(8, 30)
        box = tuple(slice(max(0, at - radius), at + radius) for at in centre)
        ball = sum((along - at) ** 2 for along, at in zip(np.ogrid[box], centre, strict=True)) < radius**2
        classes[box][ball] = 1 + number % 2
        image[box][ball] = 120 + 80 * (number % 2)
    image += generator.normal(0, 20, SHAPE).astype(np.int16)
    return image, classes


@dataclass
class _Meter:
    """Measures time and memory of each step."""

    announce: Announce
    seconds: dict[str, float] = field(default_factory=dict)
    gigabytes: dict[str, float] = field(default_factory=dict)

    def step(self, name: str, act: Callable[[], Any], memory: Callable[[], int]) -> None:
        """Do a step; keep its duration, and the largest value of ``memory()``, in bytes, during it."""
        self.announce(name)
        peak, over = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.01):
                with suppress(psutil.Error):
                    peak = max(peak, memory())

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.monotonic()
        try:
            act()
        finally:
            self.seconds[name] = time.monotonic() - began
            over.set()
            watching.join()
        self.gigabytes[name] = peak / 1e9


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Play the first round; yield one entry, without peers.

    Raises:
        SideError: the server failed.
    """
    if not keys:
        return
    with tempfile.TemporaryDirectory() as folder:
        meter = _play(Path(folder), announce)
    figures = [
        f"{name} {meter.seconds[name]:.1f} s" + (f" (target {BARS[name]:g})" if name in BARS else "")
        for name in meter.seconds
    ]
    memory = [f"{name} {meter.gigabytes[name]:.2f} GB (target {bar:.2f})" for name, bar in MEMORY_BARS.items()]
    size = "×".join(map(str, SHAPE))
    entry: LargeEntry = {
        "ratio": None,
        "bar": None,
        "seconds": meter.seconds,
        "gigabytes": {name: meter.gigabytes[name] for name in MEMORY_BARS},
        "note": f"{size} int16: {', '.join(figures)}; {', '.join(memory)}",
        "command": chosen.command(KEYS[0]),
    }
    yield KEYS[0], entry


def _play(folder: Path, announce: Announce) -> _Meter:
    studies = folder / "studies"
    studies.mkdir()
    announce("generating the volume")
    image, classes = generate()
    affine = np.diag([-VOXEL_SIZE[0], -VOXEL_SIZE[1], VOXEL_SIZE[2], 1.0])
    nibabel.save(nibabel.Nifti1Image(image, affine), studies / "ct.nii.gz")
    painted = np.zeros(SHAPE, np.int16)
    for axis, indices in PAINTED.items():
        for index in indices:
            plane = (slice(None),) * axis + (index,)
            painted[plane] = classes[plane] + SEGMENTS.index("inside")
    label = folder / "label.nii.gz"
    nibabel.save(nibabel.Nifti1Image(painted, affine), label)
    del image, classes, painted
    with _server(studies, folder) as (client, server):
        meter = _Meter(announce)
        _round(meter, client, server, label)
    # A new server, which has to compute the prediction again.
    with _server(studies, folder) as (client, server):
        running = threading.Thread(target=lambda: _ignoring(lambda: _run(client, "sparse_unet3d")))
        running.start()
        while server.cpu_percent(POLL) < 90:
            pass
        meter.step("end during Run", lambda: (server.terminate(), psutil.wait_procs([server])), lambda: 0)
        running.join()
    return meter


@contextmanager
def _server(studies: Path, folder: Path) -> Iterator[tuple["MONAILabelClient", psutil.Process]]:
    from lib.commands.server_process import running_server

    before = set(psutil.Process().children())
    try:
        with running_server(studies, {}, folder / "server.log", folder) as client:
            (process,) = set(psutil.Process().children()) - before
            yield client, process
    except (requests.RequestException, ServerError) as error:
        raise SideError(f"large: {error}") from error


def _round(meter: _Meter, client: "MONAILabelClient", server: psutil.Process, label: Path) -> None:
    url = _url(client)
    idle = server.memory_info().rss

    def above_idle() -> int:
        return int(server.memory_info().rss - idle)

    def of_training() -> int:
        return max((int(child.memory_info().rss) for child in server.children(recursive=True)), default=0)

    def submit() -> None:
        info = {"label_info": [{"name": name} for name in SEGMENTS]}
        with label.open("rb") as file:
            _check(
                requests.put(
                    f"{url}/datastore/label",
                    params={"image": "ct"},
                    data={"params": json.dumps(info)},
                    files={"label": (label.name, file)},
                    timeout=PATIENCE,
                )
            )

    def train() -> None:
        _check(requests.post(f"{url}/train/sparse_unet3d", json={"max_epochs": 1000}, timeout=PATIENCE))
        while not _is_published(client):
            if client.train_status()["status"] != "RUNNING":
                raise SideError(f"large: training ended without a model: {client.info()['train_stats']}")
            time.sleep(POLL)

    def next_sample(strategy: str) -> None:
        _check(requests.post(f"{url}/activelearning/{strategy}", json={}, timeout=PATIENCE))

    meter.step("submit", submit, above_idle)
    next_sample("sparse")
    meter.step("Next Sample (sparse)", lambda: next_sample("sparse"), above_idle)
    meter.step("first published model", train, of_training)
    meter.gigabytes["training"] = meter.gigabytes["first published model"]
    _check(requests.delete(f"{url}/train/", timeout=PATIENCE))
    meter.step("Run", lambda: _check(_run(client, "sparse_unet3d")), above_idle)
    accept = {"label": "outside", "slice": 100}
    meter.step("accept_slice", lambda: _check(_run(client, "accept_slice", **accept)), above_idle)
    meter.step("Next Sample (next_slice)", lambda: next_sample("next_slice"), above_idle)
    meter.step("submit with a prediction", submit, above_idle)


def _url(client: "MONAILabelClient") -> str:
    return str(client.get_server_url()).rstrip("/")


def _run(client: "MONAILabelClient", model: str, **params: object) -> requests.Response:
    return requests.post(
        f"{_url(client)}/infer/{model}",
        params={"image": "ct"},
        data={"params": json.dumps({"result_extension": ".nrrd", **params})},
        timeout=PATIENCE,
    )


def _is_published(client: "MONAILabelClient") -> bool:
    return bool(client.info()["train_stats"]["sparse_unet3d"].get("published"))


def _ignoring(act: Callable[[], object]) -> None:
    with suppress(requests.RequestException):
        act()


def _check(reply: requests.Response) -> None:
    if reply.status_code != 200:
        raise SideError(f"large: {reply.status_code} {reply.text[:500]}")
