"""Shows how the segmentation of many volumes goes on, and what became of each."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from .progress import bars, show_step
from .segment import plan_tasks, segment_all


def segment_and_report(inputs: Sequence[Path], model: Path, out: Path, workers: int | None, as_json: bool) -> int:
    """Segment images, and report on the terminal.

    Args:
        inputs, model, out, workers: see ``plan_tasks``.
        as_json: whether to print the results as JSON to the standard output.

    Returns:
        The exit code: 1 if an image has failed.

    Raises:
        InputError: see ``plan_tasks``.
    """
    tasks, workers = plan_tasks(inputs, model, out, workers)
    console = Console(file=sys.stderr if as_json else sys.stdout)
    with bars(console) as progress:
        bar = progress.add_task(f"Segmenting, {workers} at a time", total=len(tasks))
        of_image = progress.add_task("", visible=False)

        def done(result: dict[str, Any]) -> None:
            progress.advance(bar)
            progress.reset(of_image, description="", visible=False)
            if result["status"] == "failed":
                progress.console.print(f"{result['image']}: failed: {result['message']}", markup=False, soft_wrap=True)

        results = segment_all(tasks, workers, done, partial(show_step, progress, of_image))
    counts = Counter(result["status"] for result in results)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        print(f"{out}: " + ", ".join(f"{number} {status}" for status, number in sorted(counts.items())))
    return int(counts["failed"] > 0)
