"""What the page of a project says of the training."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lib.core.annotation.expected_gain import expected_gain
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.training.score import Score
from lib.report.project_page import Epoch, TrainingSection
from lib.server.jobs.latest_training import LatestTraining

METRIC = "validation IoU"

LITTLE = 0.002
"""Painting hardly pays once a slice is expected to add less IoU than this."""


def describe_training(folder: ModelFolder, model: Model | None, held_out: Score | None) -> TrainingSection:
    """Return what is known of the training.

    Args:
        folder: the folder of the models.
        model: the published model, if there is one that fits.
        held_out: its score on the held-out slices that its predictions cover.
    """
    stats = _stats(folder)
    history = [(one["slices"], one["score"]) for one in folder.history() if one["metric"] == METRIC]
    metric = str(stats.get("metric") or METRIC)
    return TrainingSection(
        _state(folder, stats),
        _published(model, held_out),
        metric,
        _epochs(folder, stats, metric),
        _best(history),
        _forecast(history),
    )


def _stats(folder: ModelFolder) -> dict[str, Any]:
    try:
        known = json.loads(folder.stats_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _state(folder: ModelFolder, stats: dict[str, Any]) -> str:
    latest = LatestTraining(folder).read()
    if latest is None:
        return "Nothing has been trained yet."
    epochs = f"epoch {stats.get('epoch', 0)} of {stats.get('total_epochs', '?')}"
    if latest.status == "RUNNING":
        return f"A training runs since {latest.start_ts}: {epochs}."
    if latest.status == "ERROR":
        return f"The latest training has failed: {latest.message}"
    ended = "was stopped" if latest.status == "STOPPED" else "ended"
    return f"The latest training {ended} at {latest.end_ts}, after {epochs}: {stats.get('message', '')}."


def _published(model: Model | None, held_out: Score | None) -> str:
    if model is None:
        return ""
    text = f"The published model is of epoch {model.epoch}, with {model.metric} {model.score:.3f}"
    interval = held_out.interval() if held_out else None
    if interval is None:
        return f"{text}."
    low, high = interval
    return (
        f"{text}. Judging by how parts of the held-out slices differ, the IoU on more slices would be between "
        f"{low:.2f} and {high:.2f}."
    )


def _epochs(folder: ModelFolder, stats: dict[str, Any], metric: str) -> list[Epoch]:
    """Return the epochs of the latest run, as its TensorBoard events tell."""
    run = str(stats.get("run") or "").replace(":", "")
    if not run or Path(run).name != run or not (folder.events / run).is_dir():
        return []
    events = EventAccumulator(str(folder.events / run), {"scalars": 0})
    events.Reload()
    tags = events.Tags()["scalars"]
    iou: dict[int, dict[str, float]] = {}
    for tag in tags:
        if tag.startswith(f"{metric}/"):
            for event in events.Scalars(tag):
                iou.setdefault(event.step, {})[tag.removeprefix(f"{metric}/")] = event.value
    losses = {event.step: event.value for event in events.Scalars("loss")} if "loss" in tags else {}
    return [Epoch(number, loss, iou.get(number, {})) for number, loss in sorted(losses.items()) if math.isfinite(loss)]


def _best(history: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    best: dict[int, float] = {}
    for slices, score in history:
        best[slices] = max(score, best.get(slices, 0.0))
    return sorted(best.items())


def _forecast(history: Sequence[tuple[int, float]]) -> list[str]:
    """Say what the next slice is expected to bring, and how good such forecasts were."""
    gain = expected_gain(history)
    if gain is None:
        return [
            "What the next slice brings can be estimated once models have been trained with two different numbers of "
            "annotated slices."
        ]
    said = (
        f"The next slice is expected to add {gain.mean:.3f} to the IoU, and at least 8 times in 10 between "
        f"{gain.low:.3f} and {gain.high:.3f}."
    )
    if gain.mean < LITTLE:
        said += " More slices of the same kind hardly pay; look for what is wrong in other volumes."
    made, held = _earlier_forecasts(history)
    if not made:
        return [said]
    return [said, f"Of {made} earlier forecast{'s' if made > 1 else ''} in this project, {held} came true."]


def _earlier_forecasts(history: Sequence[tuple[int, float]]) -> tuple[int, int]:
    """Return how many forecasts were made before the number of slices grew, and how many of them were right.

    A forecast is for one slice. Where several were added, it is compared to the gain of each on average.
    """
    made = held = 0
    best = _best(history)
    for (slices, iou), (more, higher) in itertools.pairwise(best):
        gain = expected_gain([one for one in history if one[0] <= slices])
        if gain is not None:
            made += 1
            held += gain.low - 1e-9 <= max(0.0, higher - iou) / (more - slices) <= gain.high + 1e-9
    return made, held
