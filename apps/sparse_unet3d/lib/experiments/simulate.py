"""The command ``simulate``: annotators who choose slices in different ways, compared."""

import functools
import json
import statistics
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from scipy.stats import wilcoxon

from ..core import suggestion
from ..core.allocation import keep_freed_memory
from ..core.errors import InputError
from ..core.files import write_json
from ..core.plan import PlanOptions, make_plan
from . import annotators, features, strategies
from .annotators import DENSE, Course, Game, Record, enough_iou, play
from .engine import outcomes
from .simulate_report import write_simulate_report
from .strategies import BASELINES, OURS, STRATEGIES
from .study import Source, load_study

CODE = [Path(str(module.__file__)) for module in (suggestion, strategies, features, annotators)]
"""What records depend on besides their settings: changed, all is played anew."""


@dataclass(frozen=True)
class Options:
    """What a person asks for.

    Attributes:
        folder: with ``images/`` and dense ``labels/``; None: the phantom.
        labels: names of the foreground classes in the folder; empty: class_1, …
        volume: name of the volume that is annotated; None: the first one.
        strategies: names; the baselines are always among them.
        seeds: how many annotators each strategy has.
        course: of the work.
        jobs: annotators at the same time; None: one for each processor core.
        experiments: folder with ``results/`` and ``work/``.
    """

    folder: Path | None
    labels: str
    volume: str | None
    strategies: Sequence[str]
    seeds: int
    course: Course
    jobs: int | None
    experiments: Path


def simulate(options: Options) -> None:
    """Do what is still to be done, and write ``simulate.json`` and the report; other volumes' results stay there.

    Raises:
        InputError: the volumes or the options cannot be used.
    """
    unknown = [name for name in options.strategies if name not in STRATEGIES]
    if unknown:
        raise InputError(f"--strategies: {unknown[0]!r}; give some of {', '.join(STRATEGIES)}")
    if options.seeds < 1:
        raise InputError(f"--seeds: {options.seeds}; give at least 1")
    experiments = options.experiments.resolve()
    folder = options.folder.resolve() if options.folder else None
    source = Source(folder, options.labels, True, experiments / "work" / "small")
    study = load_study(source)
    name = options.volume or next(iter(study.subjects))
    if name not in study.subjects:
        raise InputError(f"--volume: {name!r}; give one of {', '.join(study.subjects)}")
    subject = study.subjects[name]
    # With fewer slices than the shortest axis has, there is always something left to annotate.
    most = min(subject.truth.shape) - 1
    if not 3 <= options.course.most_slices <= most:
        raise InputError(f"--slices: {options.course.most_slices}; give 3, the first ones, to {most} for {name}")
    records = experiments / "work" / "simulate" / source.name / name
    wanted = list(dict.fromkeys((*options.strategies, *BASELINES, DENSE)))
    games = [Game(strategy, seed) for seed in range(options.seeds) for strategy in wanted]
    settings = {
        "checksum": subject.checksum,
        "code": zlib.crc32(b"".join(path.read_bytes() for path in CODE)),
        "course": [options.course.first_steps, options.course.steps, options.course.most_slices],
        "plan": json.loads(json.dumps(make_plan([subject.volume], study.scheme, PlanOptions(), "cpu").to_json())),
    }
    due = [game for game in games if _finished(records / f"{game.key}.json", settings) is None]
    print(f"{name}: {len(games)} annotators, {len(games) - len(due)} of them are finished already.", flush=True)
    began = time.monotonic()
    perform = functools.partial(_perform, source, name, options.course, settings, records)
    for number, record in enumerate(outcomes(perform, due, options.jobs), start=1):
        seconds = time.monotonic() - began
        print(
            f"[{seconds / 60:5.1f} min] {record['strategy']}, seed {record['seed']}: IoU {record['iou'][-1]:.3f} at "
            f"last ({number} of {len(due)} done, about {seconds / number * (len(due) - number) / 60:.0f} min left)",
            flush=True,
        )
    kept = [game for path in sorted(records.glob("[!.]*.json")) if (game := _finished(path, settings)) is not None]
    results = _merged(experiments / "results" / "simulate.json", f"{source.name}, {name}", summarise(kept))
    report = experiments / "results" / "simulate.html"
    write_simulate_report(report, results)
    print(f"Report: {report}")


def _finished(path: Path, settings: Mapping[str, Any]) -> Record | None:
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record if record["settings"] == settings else None


def _perform(
    source: Source, name: str, course: Course, settings: Mapping[str, Any], records: Path, game: Game
) -> Record:
    keep_freed_memory()
    torch.set_num_threads(1)
    study = load_study(source)
    record = {**play(study.subjects[name], study.scheme, game, course), "settings": dict(settings)}
    write_json(records / f"{game.key}.json", record)
    return record


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Compare the strategies on one volume.

    Returns:
        ``dense_iou``, the reference's curves by seed; by strategy, and then by seed (``seeds``), ``slices``, ``iou``
        (curves on the whole volume), ``iou_unannotated`` (on what is unannotated yet), ``places``, ``area_under_curve``
        (mean IoU over the numbers of slices), ``area_unannotated``, ``slices_to_95_percent`` (from which on the IoU is
        always enough, see ``enough_iou``; None if never), ``slices_to_first_95_percent`` (with which it is for the
        first time), ``length_to_95_percent``, the boundaries' length in these slices, which painting takes time in
        proportion to; ``saved``, the part of the slices that ours takes less than the best baseline, by medians, a
        curve that never gets there counting as one slice more than there are; ``paired``: Wilcoxon's p of our areas
        against those of each baseline, over the seeds of both, and ``holm``, it corrected for their number.
    """
    dense = [record["iou"] for record in records if record["strategy"] == DENSE]
    enough = enough_iou(dense)
    by_strategy: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: int(record["seed"])):
        if record["strategy"] != DENSE:
            by_strategy.setdefault(record["strategy"], []).append(record)
    slices_to = {name: [_slices_to(record, enough) for record in own] for name, own in by_strategy.items()}
    areas = {name: [statistics.fmean(record["iou"]) for record in own] for name, own in by_strategy.items()}
    return {
        "dense_iou": dense,
        "seeds": {name: [record["seed"] for record in own] for name, own in by_strategy.items()},
        "slices": {name: own[0]["slices"] for name, own in by_strategy.items()},
        "iou": {name: [record["iou"] for record in own] for name, own in by_strategy.items()},
        "iou_unannotated": {name: [record["iou_unannotated"] for record in own] for name, own in by_strategy.items()},
        "places": {name: [record["places"] for record in own] for name, own in by_strategy.items()},
        "area_under_curve": {name: [round(area, 4) for area in own] for name, own in areas.items()},
        "area_unannotated": {
            name: [round(statistics.fmean(record["iou_unannotated"]), 4) for record in own]
            for name, own in by_strategy.items()
        },
        "slices_to_95_percent": slices_to,
        "slices_to_first_95_percent": {
            name: [_first_slices_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "length_to_95_percent": {
            name: [_length_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "saved": _saved(by_strategy, slices_to),
        "paired": _corrected(
            {
                baseline: _paired(by_strategy[OURS], by_strategy[baseline])
                for baseline in BASELINES
                if OURS in by_strategy and baseline in by_strategy
            }
        ),
        "commits": sorted({record["commit"] for record in records}),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _slices_to(record: Record, level: float) -> int | None:
    """Return the number of slices from which on the IoU is never below a level again; None if it is at the end."""
    enough = None
    for slices, iou in zip(record["slices"], record["iou"], strict=True):
        enough = (enough or slices) if iou >= level else None
    return enough


def _first_slices_to(record: Record, level: float) -> int | None:
    """Return the number of slices with which the IoU reaches a level first; None if never."""
    return next((n for n, iou in zip(record["slices"], record["iou"], strict=True) if iou >= level), None)


def _saved(by_strategy: Mapping[str, Sequence[Record]], slices_to: Mapping[str, Sequence[int | None]]) -> float | None:
    """Return which part of the best baseline's slices ours saves; None where one of them is missing."""
    if not {OURS, *BASELINES} <= by_strategy.keys():
        return None
    median = {
        name: statistics.median(1 + by_strategy[name][0]["slices"][-1] if n is None else n for n in slices_to[name])
        for name in (OURS, *BASELINES)
    }
    return round(1 - median[OURS] / min(median[baseline] for baseline in BASELINES), 3)


def _corrected(paired: Mapping[str, dict[str, float | None]]) -> dict[str, dict[str, float | None]]:
    """Add ``holm``: p values corrected for how many there are, by Holm's method."""
    corrected: dict[str, dict[str, float | None]] = {name: {**own, "holm": None} for name, own in paired.items()}
    values = sorted((p, name) for name, own in paired.items() if (p := own["p"]) is not None)
    highest = 0.0
    for number, (p, name) in enumerate(values):
        highest = max(highest, min(1.0, (len(values) - number) * p))
        corrected[name]["holm"] = highest
    return corrected


def _length_to(record: Record, level: float) -> int | None:
    """Return how long the boundaries are in the slices that it takes, see ``_slices_to``."""
    count = _slices_to(record, level)
    return None if count is None else sum(record["lengths"][:count])


def _paired(ours: Sequence[Record], theirs: Sequence[Record]) -> dict[str, float | None]:
    """Return the median difference of the areas seed by seed, positive where ours is larger, and Wilcoxon's p."""
    areas = {record["seed"]: statistics.fmean(record["iou"]) for record in theirs}
    differences = [statistics.fmean(one["iou"]) - areas[one["seed"]] for one in ours if one["seed"] in areas]
    p = float(wilcoxon(differences).pvalue) if len(differences) > 1 and any(differences) else None
    return {"difference": statistics.median(differences) if differences else None, "p": p}


def _merged(path: Path, data: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Take a data set's results into the file; return all that it holds."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content[data] = dict(summary)
    write_json(path, content)
    return content
