"""The process in which one side of a comparison runs: ``python -m benchmarks.side``, started by ``timing``.

Reads from standard input one JSON line ``{"entry": "module:function", "options": {...}, "threads": n}``, calls the
function with the options, and answers ``{"ready": true}``. The function prepares everything and returns what is timed:
a callable that is given a function to report its progress to (0 … 1), and returns nothing or further facts about the
run. After that, each line asks for one run and is answered by ``{"progress": x}`` any number of times, and by
``{"seconds": s, "peak_bytes": b, "facts": {...}}``.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch


def peak_bytes() -> int:
    """Return the most memory that this process has had resident so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, which on Linux counts in what the parent had before it started this process.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Answer requests until standard input ends."""
    # Peers write to standard output what they like, so answers go to a copy of it and the rest to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    request = json.loads(sys.stdin.readline())
    torch.set_num_threads(request["threads"])
    module, function = request["entry"].split(":")
    run = getattr(importlib.import_module(module), function)(**request["options"])
    _answer(answers, ready=True)
    on_gpu = request["options"].get("device") == "cuda"
    for _ in sys.stdin:
        start = time.perf_counter()
        facts = run(lambda fraction: _answer(answers, progress=fraction))
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        facts = dict(facts or {})
        if on_gpu:
            facts["peak_bytes_on_gpu"] = torch.cuda.max_memory_allocated()
        _answer(answers, seconds=seconds, peak_bytes=peak_bytes(), facts=facts)


def _answer(answers: TextIO, **values: Any) -> None:
    print(json.dumps(values), file=answers, flush=True)


if __name__ == "__main__":
    main()
