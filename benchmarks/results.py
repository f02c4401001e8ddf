"""The file of results: an entry for each comparison, kept until the comparison is repeated."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from lib.core.errors import InputError
from lib.core.files import replacing

MACHINES = "machines"
"""Key of the facts about the machines. The ``machine`` of an entry is a position among them."""

PACKAGES = (
    "torch",
    "numpy",
    "monai",
    "pytorch3dunet",
    "torchio",
    "biomedisa",
    "elasticdeform",
    "nnunetv2",
    "itk-morphologicalcontourinterpolation",
    "scikit-image",
    "scikit-learn",
)


Curve = list[tuple[float, float]]
"""Seconds since the annotation was submitted, and mean foreground IoU then, 0 … 1; in the order of time."""


class Entry(TypedDict):
    """What was measured.

    ``note``: in words. ``command``: repeats the measurement.
    """

    note: str
    command: str


class _SpeedDetails(TypedDict, total=False):
    """What only some comparisons have.

    ``runs``: each run of each side. ``peak_gb``: memory by side. ``unit`` of ``ours`` and ``theirs``, where it isn't
    seconds. ``waited``: share of the time in which training waited for tiles. ``facts``: what each side
    reported. ``largest_loss_difference``: between two loss curves, relative. ``final``: IoU at the end, by side.
    """

    runs: Mapping[str, list[float] | list[float | None]]
    peak_gb: dict[str, float]
    unit: str
    waited: float
    facts: dict[str, dict[str, Any]]
    largest_loss_difference: float
    final: dict[str, float]


class _Comparison(Entry, _SpeedDetails):
    """``theirs_is``: name of the other side. ``bar``: the target for the ratio, None where there is none."""

    theirs_is: str
    bar: float | None


class SpeedEntry(_Comparison):
    """A comparison of speed.

    ``ours`` and ``theirs``: medians in seconds. ``ratio``: above 1 we are faster. ``spread``: lowest and highest ratio
    of two runs made next to each other.
    """

    ours: float
    theirs: float
    ratio: float
    spread: list[float]


class UnreachedEntry(_Comparison):
    """A comparison in which a side doesn't reach the level in all its runs: it has no time, and there is no ratio."""

    ours: float | None
    theirs: float | None
    ratio: None
    spread: None


class DepthEntry(Entry):
    """How our time in seconds and memory in GB grow with the depth of the volume in voxels."""

    depths: list[int]
    ours: list[float]
    peak_gb: list[float]


class IouEntry(Entry):
    """Mean foreground IoU, medians, and what each run of each side reported."""

    ours: float
    theirs: float
    runs: dict[str, list[dict[str, Any]]]


class LargeEntry(Entry):
    """Seconds and GB of each step on a large volume; without peers, so ``ratio`` and ``bar`` are None."""

    ratio: None
    bar: None
    seconds: dict[str, float]
    gigabytes: dict[str, float]


class RateEntry(Entry):
    """How many units per second each way does, in each run, and the load of the machine before it; without peers."""

    ratio: None
    bar: None
    rates: dict[str, list[float]]
    load: dict[str, list[float]]


class TrainingEntry(Entry):
    """A training that may be unfinished; without peers, so ``ratio`` and ``bar`` are None.

    ``steps`` of ``all_steps`` took ``seconds``; at this speed, all of them take ``projected_seconds``. ``iou``: mean
    foreground IoU at the end, None before.
    """

    ratio: None
    bar: None
    steps: int
    all_steps: int
    seconds: float
    projected_seconds: float
    iou: float | None


class _CurveDetails(TypedDict, total=False):
    """``peak_gb``: memory of the last run. ``setup``: how the learner was used, in words."""

    peak_gb: float
    setup: str


class CurveEntry(Entry, _CurveDetails):
    """How fast a learner learns.

    ``curves``: of each run. ``final``: mean foreground IoU at the end of each run. ``iou``: by class, there.
    ``slices``: what was learnt from, annotated slices along each axis; None: dense annotation. ``evaluation_seconds``:
    median duration of a scoring in the last run.
    """

    curves: list[Curve]
    final: list[float]
    iou: list[dict[str, float | None]]
    slices: int | None
    budget_seconds: float
    evaluation_seconds: float


class MachineFacts(TypedDict, total=False):
    """What timings depend on; ``memory_gb`` and ``gpu`` only where known.

    ``instructions``: the widest vector instructions that PyTorch uses, such as AVX2.
    """

    processor: str
    instructions: str
    cores: int | None
    system: str
    python: str
    versions: dict[str, str]
    memory_gb: float
    gpu: str


def with_ratio(results: Mapping[str, Entry]) -> dict[str, SpeedEntry]:
    """Return the comparisons that have a ratio, by key."""
    return {key: cast(SpeedEntry, entry) for key, entry in results.items() if entry.get("ratio") is not None}


def machine(device: str) -> MachineFacts:
    """Return the facts that timings depend on: processor, cores, memory, GPU, versions."""
    facts: MachineFacts = {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if device == "cuda":
        # Asked in another process: torch in this one would add to the memory of each process that this one starts.
        name = "import torch; print(torch.cuda.get_device_name())"
        facts["gpu"] = subprocess.run([sys.executable, "-c", name], capture_output=True, text=True).stdout.strip()
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def result_key(key: str, device: str) -> str:
    """Return the name of an entry: the key, prefixed with the device if it isn't the CPU."""
    return key if device == "cpu" else f"{device}.{key}"


def read_results(path: Path) -> dict[str, Entry]:
    """Read the entries by key; none if there is no file."""
    return {key: entry for key, entry in _content(path).items() if key != MACHINES}


def read_results_of(path: Path, facts: MachineFacts) -> dict[str, Entry]:
    """Read the entries to go on with; none if there is no file.

    Raises:
        InputError: some are of another machine, and would be mixed with this one's.
    """
    machines = _content(path).get(MACHINES, [])
    found = read_results(path)
    for key, entry in found.items():
        if machines[cast(dict[str, int], entry)["machine"]] != facts:
            raise InputError(f"--resume: {path}: {key} was measured on another machine; name another file by --results")
    return found


def _content(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def merge_result(path: Path, device: str, facts: MachineFacts, key: str, entry: Entry) -> None:
    """Write an entry into the file, with the number of the machine it was measured on; all other entries stay."""
    content = _content(path)
    machines = content.setdefault(MACHINES, [])
    if facts not in machines:
        machines.append(facts)
    content[result_key(key, device)] = {**entry, "machine": machines.index(facts)}
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
