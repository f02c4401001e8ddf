"""The file of results: one entry per comparison, kept until that comparison is measured again."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "monai",
    "pytorch3dunet",
    "torchio",
    "elasticdeform",
    "nnunetv2",
    "itk-morphologicalcontourinterpolation",
)


def machine(device: str) -> dict[str, Any]:
    """Return what timings depend on: processor, cores, memory, GPU, versions."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    if device == "cuda":
        # Asked in another process: torch would count in the memory of each process started from this one.
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
    """Return the name of an entry: the key, for other devices than the CPU with the device before it."""
    return key if device == "cpu" else f"{device}.{key}"


def read_results(path: Path) -> dict[str, Any]:
    """Read the results; none yet where there is no file."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return results


def merge_result(path: Path, device: str, facts: dict[str, Any], key: str, entry: dict[str, Any]) -> None:
    """Put an entry, and the machine it was measured on, into the file; all other entries stay."""
    results = read_results(path)
    results.setdefault("machine", {})[device] = facts
    results[result_key(key, device)] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    beside.replace(path)
