"""Many small volumes by one process, by the processes that ``segment`` chooses, and by two workers of a dask scheduler;
and training steps by one process and by two.

Each figure is that of the real command, from its start to its end, in turns. The load of the machine stands beside it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch

from lib.core.annotation.split import SliceSplit
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model, build_network
from lib.core.plan.plan import Plan

from . import PROJECT
from .data import smooth_volume, sparse_annotation
from .results import Entry, RateEntry
from .timing import Announce, BenchmarkOptions, SideError

SEGMENT, TRAIN = "many.segment", "many.train"
KEYS: tuple[str, ...] = (SEGMENT, TRAIN)

VOLUMES, SIDE, WIDTH = 200, 64, 4
"""How many volumes, their sides in voxels, and the width of the network."""

EPOCHS = 3

REPEATS = 2

APP = PROJECT / "apps/sparse_unet3d"

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Yield key and entry of each comparison.

    Raises:
        SideError: a command failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if SEGMENT in keys:
            yield SEGMENT, _segment(folder, chosen, announce)
        if TRAIN in keys:
            yield TRAIN, _train(folder, chosen, announce)


def _segment(folder: Path, chosen: BenchmarkOptions, announce: Announce) -> RateEntry:
    from distributed import LocalCluster

    scans = folder / "scans"
    scans.mkdir()
    for number in range(VOLUMES):
        image = (1000 * smooth_volume((SIDE,) * 3, 1, seed=number)[0]).astype(np.uint16)
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), scans / f"v{number:03}.nii")
    torch.manual_seed(0)
    plan = Plan(scheme=SCHEME, channels=1, spacing=None, width=WIDTH, tile=(92, 92, 92))
    model = Model(build_network(plan).eval(), plan, SliceSplit({}, {}), 0.5, "validation IoU", "a run", 1)
    ModelFolder(folder / "models").publish(model)

    def rate(name: str, *options: str) -> float:
        out = folder / "out" / f"{name}-{time.monotonic_ns()}"
        command = [str(APP), "segment", str(scans), "--model", str(folder / "models"), "--out", str(out), *options]
        began = time.monotonic()
        _run(name, command)
        return VOLUMES / (time.monotonic() - began)

    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, env={"PYTHONPATH": str(APP)}
    ) as cluster:
        ways = {
            "1 process": ("--workers", "1"),
            "as many processes as segment chooses": (),
            "2 dask workers": ("--dask", cluster.scheduler_address),
        }
        rates, load = _in_turns(
            {name: partial(rate, name, *options) for name, options in ways.items()}, chosen, announce
        )
    what = f"volumes per second: {VOLUMES} volumes of {SIDE}³ voxels, width {WIDTH}, {os.cpu_count()} cores"
    return _entry(what, rates, load, chosen.command(SEGMENT))


def _train(folder: Path, chosen: BenchmarkOptions, announce: Announce) -> RateEntry:
    # Imported here, because a rented machine may lack MONAI Label.
    from lib.server.store.datastore import AnnotationStore

    studies = folder / "studies"
    studies.mkdir()
    image = smooth_volume((SIDE,) * 3, 1)
    nibabel.save(nibabel.Nifti1Image((1000 * image[0]).astype(np.uint16), np.eye(4)), studies / "a.nii")
    label = folder / "label.nii"
    nibabel.save(nibabel.Nifti1Image(sparse_annotation(image), np.eye(4)), label)
    names = [{"name": name} for name in (*SCHEME.foreground, SCHEME.background)]
    AnnotationStore(str(studies), SCHEME).save_label("a", str(label), "final", {"label_info": names})

    def rate(processes: int) -> float:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [str(APP), "train", str(studies), "--epochs", str(EPOCHS), "--afresh", "--json"]
        said = _run(f"{processes} processes", [*torchrun, *command, "--conf", f"width={WIDTH}"])
        steps = EPOCHS * Model.load(studies / "models/model.pt").plan.steps_per_epoch
        return float(steps / json.loads(said)["seconds"])

    rates, load = _in_turns({f"{number} processes": partial(rate, number) for number in (1, 2)}, chosen, announce)
    what = f"training steps per second, each of one tile for each process: width {WIDTH}, {os.cpu_count()} cores"
    return _entry(what, rates, load, chosen.command(TRAIN))


def _in_turns(
    ways: Mapping[str, Callable[[], float]], chosen: BenchmarkOptions, announce: Announce
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the rates of each way, and the load of the machine before each run."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    load: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(chosen.repeats or REPEATS):
        # Back and forth, so that no way always runs after the same other one.
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            announce(f"{name}, run {turn + 1}")
            load[name].append(round(os.getloadavg()[0], 2))
            rates[name].append(ways[name]())
    return rates, load


def _entry(what: str, rates: Mapping[str, list[float]], load: Mapping[str, list[float]], command: str) -> RateEntry:
    figures = [
        f"{name} {statistics.median(own):.2f} ({', '.join(f'{one:.2f}' for one in own)}; load before "
        f"{', '.join(map(str, load[name]))})"
        for name, own in rates.items()
    ]
    return {
        "ratio": None,
        "bar": None,
        "rates": {**rates},
        "load": {**load},
        "note": f"{what}: {'; '.join(figures)}",
        "command": command,
    }


def _run(name: str, command: Sequence[str]) -> str:
    """Run Python; return what it wrote to the standard output."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=PROJECT)
    if done.returncode:
        raise SideError(f"{name} ended with code {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout
