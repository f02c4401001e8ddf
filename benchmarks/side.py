"""The process of one side of a comparison: ``python -m benchmarks.side``, started by ``timing``.

It reads a JSON line ``{"entry": "module:function", "options": {...}, "threads": n}`` from standard input, calls the
function with the options, and answers ``{"ready": true}``. The function prepares everything and returns the callable to
time. The callable takes a function to call with its progress, 0 … 1, and returns nothing or facts about the run. Each
further line asks for a run. The answer is ``{"progress": x}`` any number of times, then
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
    """Return the peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux getrusage includes the memory of the parent before it started this process.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> None:
    """Answer requests until standard input ends."""
    # Other software may print to standard output. Answers go to a copy of it, everything else to standard error.
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
