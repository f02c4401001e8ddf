"""The command ``simulate``: annotators who choose slices in different ways, compared."""

import functools
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from scipy.stats import wilcoxon

from ..core.allocation import keep_freed_memory
from ..core.errors import InputError
from ..core.files import write_json
from ..core.plan import PlanOptions, make_plan
from .annotators import DENSE, ENOUGH, Course, Game, Record, play
from .engine import outcomes
from .simulate_report import write_simulate_report
from .strategies import BASELINES, OURS, STRATEGIES
from .study import Source, load_study


@dataclass(frozen=True)
class Options:
    """What a person asks for.

    Attributes:
        folder: with ``images/`` and dense ``labels/``, of which the first volume is annotated; None: the phantom.
        labels: names of the foreground classes in the folder; empty: class_1, …
        strategies: names; the baselines are always among them.
        seeds: how many annotators each strategy has.
        course: of the work.
        jobs: annotators at the same time; None: one for each processor core.
        experiments: folder with ``results/`` and ``work/``.
    """

    folder: Path | None
    labels: str
    strategies: Sequence[str]
    seeds: int
    course: Course
    jobs: int | None
    experiments: Path


def simulate(options: Options) -> None:
    """Do what is still to be done, and write ``simulate.json`` and the report; other data sets' results stay there.

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
    (name, subject), *_ = study.subjects.items()
    if not 3 <= options.course.most_slices <= sum(subject.truth.shape):
        raise InputError(
            f"--slices: {options.course.most_slices}; {name} has {sum(subject.truth.shape)}, and the first 3 are given"
        )
    records = experiments / "work" / "simulate" / source.name
    wanted = list(dict.fromkeys((*options.strategies, *BASELINES, DENSE)))
    games = [Game(strategy, seed) for seed in range(options.seeds) for strategy in wanted]
    settings = {
        "checksum": subject.checksum,
        "course": [options.course.first_steps, options.course.steps, options.course.most_slices],
        "plan": json.loads(json.dumps(make_plan([subject.volume], study.scheme, PlanOptions(), "cpu").to_json())),
    }
    due = [game for game in games if _finished(records / f"{game.key}.json", settings) is None]
    print(f"{source.name}: {len(games)} annotators, {len(games) - len(due)} of them are finished already.", flush=True)
    began = time.monotonic()
    perform = functools.partial(_perform, source, options.course, settings, records)
    for number, record in enumerate(outcomes(perform, due, options.jobs), start=1):
        seconds = time.monotonic() - began
        print(
            f"[{seconds / 60:5.1f} min] {record['strategy']}, seed {record['seed']}: IoU {record['iou'][-1]:.3f} at "
            f"last ({number} of {len(due)} done, about {seconds / number * (len(due) - number) / 60:.0f} min left)",
            flush=True,
        )
    kept = [game for path in sorted(records.glob("[!.]*.json")) if (game := _finished(path, settings)) is not None]
    results = _merged(experiments / "results" / "simulate.json", source.name, summarise(kept))
    report = experiments / "results" / "simulate.html"
    write_simulate_report(report, results)
    print(f"Report: {report}")


def _finished(path: Path, settings: Mapping[str, Any]) -> Record | None:
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text(encoding="utf-8"))
    return record if record["settings"] == settings else None


def _perform(source: Source, course: Course, settings: Mapping[str, Any], records: Path, game: Game) -> Record:
    keep_freed_memory()
    torch.set_num_threads(1)
    study = load_study(source)
    subject = next(iter(study.subjects.values()))
    record = {**play(subject, study.scheme, game, course), "settings": dict(settings)}
    write_json(records / f"{game.key}.json", record)
    return record


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Compare the strategies on one volume.

    Returns:
        ``dense_iou`` by seed; by strategy, and then by seed (``seeds``), ``slices``, ``iou`` (curves), ``places``,
        ``area_under_curve`` (mean IoU over the numbers of slices), ``slices_to_95_percent`` (of the dense IoU's median;
        None if never), ``length_to_95_percent``, the boundaries' length in these slices, which painting takes time in
        proportion to; ``paired``: Wilcoxon's p of our areas against those of each baseline, over the seeds of both.
    """
    dense = [record["iou"][0] for record in records if record["strategy"] == DENSE]
    enough = ENOUGH * statistics.median(dense)
    by_strategy: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: int(record["seed"])):
        if record["strategy"] != DENSE:
            by_strategy.setdefault(record["strategy"], []).append(record)
    areas = {name: [statistics.fmean(record["iou"]) for record in own] for name, own in by_strategy.items()}
    return {
        "dense_iou": dense,
        "seeds": {name: [record["seed"] for record in own] for name, own in by_strategy.items()},
        "slices": {name: own[0]["slices"] for name, own in by_strategy.items()},
        "iou": {name: [record["iou"] for record in own] for name, own in by_strategy.items()},
        "places": {name: [record["places"] for record in own] for name, own in by_strategy.items()},
        "area_under_curve": {name: [round(area, 4) for area in own] for name, own in areas.items()},
        "slices_to_95_percent": {
            name: [_slices_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "length_to_95_percent": {
            name: [_length_to(record, enough) for record in own] for name, own in by_strategy.items()
        },
        "paired": {
            baseline: _paired(by_strategy[OURS], by_strategy[baseline])
            for baseline in BASELINES
            if OURS in by_strategy and baseline in by_strategy
        },
        "commits": sorted({record["commit"] for record in records}),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _slices_to(record: Record, level: float) -> int | None:
    """Return the number of slices from which on the IoU is never below a level again; None if it is at the end."""
    enough = None
    for slices, iou in zip(record["slices"], record["iou"], strict=True):
        enough = (enough or slices) if iou >= level else None
    return enough


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
