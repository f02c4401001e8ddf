"""A real server in its own process, and small images and annotations to serve."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel
import numpy as np
import psutil
import requests
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray

from lib.core.annotation.split import SliceSplit
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model, build_network
from lib.core.plan.plan import Plan
from lib.server.store.datastore import AnnotationStore
from project import APP

PATIENCE = 300
"""Seconds after which a wait counts as hanging. Nothing takes this long otherwise, even on a slow machine."""
SHAPE = (20, 18, 12)
SPACING = (0.5, 0.5, 1.25)
SEGMENTS = ["inside (predicted)", "tubule (predicted)", "annotate here", "inside", "tubule", "outside"]
"""The segments that 3D Slicer shows with the default classes."""


def scaled(*spacing: float) -> NDArray[np.float64]:
    """An affine with the axes in RAS order."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-7, 11, 3)
    return affine


def write_image(
    path: Path, shape: tuple[int, ...] = SHAPE, affine: NDArray[np.float64] | None = None, seed: int = 0
) -> Path:
    """Write noise with a bright block, as uint16; channels last where the shape has four sizes."""
    array = np.random.default_rng(seed).integers(0, 60, shape).astype(np.uint16)
    array[5:15, 4:14, 3:9] += 300
    nibabel.save(nibabel.Nifti1Image(array, scaled(*SPACING) if affine is None else affine), path)
    return path


def write_label(path: Path, array: NDArray[Any], affine: NDArray[np.float64] | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, scaled(*SPACING) if affine is None else affine), path)
    return path


def paint() -> NDArray[np.uint8]:
    """An annotation of the block of ``write_image``: two slices across each axis; 1 inside, 2 tubule, 3 outside."""
    dense = np.full(SHAPE, 3, np.uint8)
    dense[5:15, 4:14, 3:9] = 2
    dense[8:12, 7:11, 5:7] = 1
    sparse = np.zeros(SHAPE, np.uint8)
    sparse[[6, 10]] = dense[[6, 10]]
    sparse[:, [5, 9]] = dense[:, [5, 9]]
    sparse[:, :, [4, 6]] = dense[:, :, [4, 6]]
    return sparse


def as_slicer_sends(annotation: NDArray[np.uint8]) -> tuple[NDArray[np.int16], dict[str, Any]]:
    """Return the plugin's label map and parameters for paint: values are positions among all segments."""
    label = np.where(annotation > 0, annotation + 3, 0).astype(np.int16)
    return label, {"label_info": [{"name": name, "idx": position} for position, name in enumerate(SEGMENTS, start=1)]}


def stored(studies: Path, tag: str, image: str = "a") -> NDArray[np.uint8]:
    """The voxels of a label file in the datastore's folder."""
    return np.asarray(nibabel.Nifti1Image.from_filename(studies / "labels" / tag / f"{image}.nii.gz").dataobj)


def publish(folder: Path, scheme: LabelScheme, channels: int = 1, width: int = 2) -> None:
    """Publish an untrained model."""
    plan = Plan(scheme=scheme, channels=channels, spacing=None, width=width, tile=(92, 92, 92))
    model = Model(build_network(plan).eval(), plan, SliceSplit({}, {}), 0.5, "validation IoU", "a run", 3)
    ModelFolder(folder).publish(model)


def parts(response: requests.Response, folder: Path) -> tuple[dict[str, Any], Path]:
    """The parameters and the file of a multipart reply."""
    assert response.status_code == 200, response.text
    head = f"Content-Type: {response.headers['content-type']}\r\n\r\n".encode()
    params, image = BytesParser(policy=policy.HTTP).parsebytes(head + response.content).iter_parts()
    file = folder / str(image.get_filename())
    values, content = (part.get_payload(decode=True) for part in (params, image))
    assert isinstance(values, bytes)
    assert isinstance(content, bytes)
    file.write_bytes(content)
    return json.loads(values), file


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs. One that has ended keeps its number until its parent looks, and is no longer alive."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def running(processes: Iterable[psutil.Process], module: str) -> list[psutil.Process]:
    """Those of some processes that run a module. Children of other tests that nobody has waited for don't count."""
    return [process for process in processes if module in _command_line(process)]


def _command_line(process: psutil.Process) -> list[str]:
    """The command line of a process, or [] if it has ended."""
    with suppress(psutil.NoSuchProcess):
        # For an instant, a program that has just started has none.
        wait_until(process.cmdline)
        return list(process.cmdline())
    return []


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder with their content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


NAMED = {"label_info": [{"name": "inside"}, {"name": "tubule"}, {"name": "outside"}]}
"""Parameters of a submission whose values are those of an annotation."""


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for a condition; fail once the process that it depends on has ended."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, f"the process ended with code {process.returncode}"
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.2)


class Server:
    """``monailabel start_server`` with the app, on a free port."""

    def __init__(self, studies: Path, folder: Path, app: Path = APP, archive: str = "", **conf: str) -> None:
        """Start it.

        Args:
            studies: the studies folder; with ``archive``, the project folder.
            folder: for its log and its temporary files.
            app: the app.
            archive: address of the archive that has the images.
            conf: its options.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.studies = studies
        self.client = MONAILabelClient(self.url, tmpdir=str(folder), client_id="tester")
        self.log = folder / "server.log"
        self.tmp = folder / "tmp"
        self.tmp.mkdir(exist_ok=True)
        if archive:
            conf["project"] = str(studies)
        served = archive or str(studies)
        options = [word for key, value in conf.items() for word in ("--conf", key, value)]
        command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--studies", served, "--host", "127.0.0.1", "--port", str(self.port), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"), "TMPDIR": str(self.tmp)},
            )

    def wait(self) -> "Server":
        """Wait until it answers."""
        self.wait_until(self._answers)
        return self

    def _answers(self) -> bool:
        try:
            self.get("/info/").raise_for_status()
        except requests.ConnectionError:
            return False
        return True

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; fail if the server ends."""
        try:
            wait_until(condition, self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}; the server said:\n{self.log.read_text()[-5000:]}") from error

    def jobs(self) -> list[psutil.Process]:
        """The processes of trainings, scorings and batch inference that it has started."""
        return running(psutil.Process(self.process.pid).children(), "lib.server.jobs.process")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=PATIENCE, **kwargs)

    def wait_for_training(self, until: Callable[[dict[str, Any], str], bool]) -> dict[str, Any]:
        """Poll as 3D Slicer does, until a condition on the statistics and the status; return the statistics."""
        stats: dict[str, Any] = {}

        def reached() -> bool:
            nonlocal stats
            status = self.client.train_status()
            stats = self.client.info()["train_stats"]["sparse_unet3d"]
            if until(stats, status["status"]):
                return True
            assert status["status"] == "RUNNING", "\n".join(status["details"])
            return False

        self.wait_until(reached)
        return stats

    def next_sample(self, strategy: str = "sparse") -> requests.Response:
        return requests.post(f"{self.url}/activelearning/{strategy}", json={}, timeout=PATIENCE)

    def put_label(self, image: str, file: Path, params: object = None, tag: str = "") -> requests.Response:
        with file.open("rb") as label:
            return requests.put(
                f"{self.url}/datastore/label",
                params={"image": image, **({"tag": tag} if tag else {})},
                data={"params": json.dumps({} if params is None else params)},
                files={"label": (file.name, label)},
                timeout=PATIENCE,
            )

    def run_job(self, start: str, state: str, **options: Any) -> dict[str, Any]:
        """Start a training, scoring or batch, and wait until it is done."""
        requests.post(self.url + start, json=options, timeout=PATIENCE).raise_for_status()
        self.wait_until(lambda: self.get(state).json()["status"] != "RUNNING")
        job: dict[str, Any] = self.get(state).json()
        assert job["status"] == "DONE", "\n".join(job["details"])
        return job

    def set_label_info(self, image: str, tag: str, info: dict[str, Any]) -> None:
        """Write label info as another process does, and wait until the server knows."""
        self._store().update_label_info(image, tag, info)

        def known() -> bool:
            seen = self.get("/datastore/label/info", params={"label": image, "tag": tag}).json()
            return all(seen.get(key) == value for key, value in info.items())

        self.wait_until(known)

    def forget_offers(self, *images: str) -> None:
        """Let Next Sample offer these images as if it hadn't yet."""
        store = self._store()
        for image in images:
            for strategy in store.get_image_info(image).get("strategy", {}):
                with mock.patch("time.time", return_value=0.0):
                    store.note_offer(image, strategy, None)

        def forgotten(image: str) -> bool:
            info = self.get("/datastore/image/info", params={"image": image}).json()
            return not any(offer["ts"] for offer in info.get("strategy", {}).values())

        self.wait_until(lambda: all(map(forgotten, images)))

    def _store(self) -> AnnotationStore:
        return AnnotationStore(str(self.studies), LabelScheme(("inside", "tubule"), "outside"))

    def put_image(self, image: str, file: Path) -> requests.Response:
        with file.open("rb") as content:
            return requests.put(
                f"{self.url}/datastore/image",
                params={"image": image},
                files={"file": (file.name, content)},
                timeout=PATIENCE,
            )

    def infer(self, image: str, model: str = "sparse_unet3d", **params: object) -> requests.Response:
        return requests.post(
            f"{self.url}/infer/{model}",
            params={"image": image},
            data={"params": json.dumps(params)},
            timeout=PATIENCE,
        )
