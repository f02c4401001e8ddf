"""The command ``simulate``: compare strategies for choosing slices."""

import functools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.core.annotation import suggestion
from lib.core.device.machine import default_device
from lib.core.device.memory import keep_freed_memory
from lib.core.errors import InputError
from lib.core.files import replacing, write_json
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan

from . import annotators, comparison, foreground_efficiency, gains, strategies
from .annotators import DENSE, Game, GameRecord, GameSettings, Schedule, play
from .comparison import CompareSettings, Comparison
from .engine import outcomes
from .simulate_report import write_simulate_report
from .strategies import BASELINES, STRATEGIES
from .study import Source, checksum_of_code, load_study

CODE = (suggestion, strategies, annotators)
"""The modules that choose slices; when they change, all games are repeated. Records name the commit of the rest."""

COMPARING_CODE = (*CODE, comparison, foreground_efficiency, gains)
"""The same with the modules that compare; results can be shown together only if all of them are the same."""


@dataclass(frozen=True)
class SimulateOptions:
    """What a person asks for.

    Attributes:
        folder: folder with ``images/`` and dense ``labels/``; None: the phantom.
        labels: names of the foreground classes in the folder; empty: class_1, …
        volume: name of the volume to annotate; None: the first one.
        strategies: names of strategies; the baselines are always added.
        seeds: number of annotators for each strategy.
        schedule: schedule of training and annotation.
        jobs: number of annotators at a time; None: one for each processor core.
        experiments: folder with ``results/`` and ``work/``.
    """

    folder: Path | None
    labels: str
    volume: str | None
    strategies: Sequence[str]
    seeds: int
    schedule: Schedule
    jobs: int | None
    experiments: Path


def simulate(options: SimulateOptions) -> None:
    """Play the games that aren't finished yet, and write the report and ``simulate.json``, which other volumes share.

    Raises:
        InputError: the volumes or the options can't be used.
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
    # Fewer slices than the shortest axis has always leave something to annotate.
    most = min(subject.truth.shape) - 1
    if not 3 <= options.schedule.most_slices <= most:
        raise InputError(f"--slices: {options.schedule.most_slices}; give 3 to {most} for {name}")
    records = experiments / "work" / "simulate" / source.name / name
    wanted = list(dict.fromkeys((*options.strategies, *BASELINES, DENSE)))
    games = [Game(strategy, seed) for seed in range(options.seeds) for strategy in wanted]
    settings: GameSettings = {
        "checksum": subject.checksum,
        "code": checksum_of_code(*CODE),
        "course": _course(options.schedule),
        "plan": json.loads(json.dumps(make_plan([subject.volume], study.scheme, PlanOptions(), "cpu").to_json())),
    }
    due = [game for game in games if _finished(records / f"{game.key}.json", settings) is None]
    print(f"{name}: {len(games)} annotators, {len(games) - len(due)} of them are finished already.", flush=True)
    began = time.monotonic()
    perform = functools.partial(_perform, source, name, options.schedule, settings, records)
    for number, record in enumerate(outcomes(perform, due, options.jobs), start=1):
        seconds = time.monotonic() - began
        print(
            f"[{seconds / 60:5.1f} min] {record['strategy']}, seed {record['seed']}: IoU {record['iou'][-1]:.3f} at "
            f"the end ({number} of {len(due)} done, about {seconds / number * (len(due) - number) / 60:.0f} min left)",
            flush=True,
        )
    kept = [game for path in sorted(records.glob("[!.]*.json")) if (game := _finished(path, settings)) is not None]
    summary: Comparison = {
        **comparison.summarise(kept),
        "settings": compared_by(options.schedule),
    }
    results = _merged(experiments / "results" / "simulate.json", f"{source.name}, {name}", summary)
    report = experiments / "results" / "simulate.html"
    write_simulate_report(report, results)
    print(f"Report: {report}")


def compared_by(schedule: Schedule) -> CompareSettings:
    """Return the settings of results that are made now. Results can be shown together only if these are the same."""
    return {"code": checksum_of_code(*COMPARING_CODE), "course": _course(schedule)}


def _course(schedule: Schedule) -> list[int]:
    return [schedule.first_steps, schedule.steps, schedule.most_slices]


def _finished(path: Path, settings: GameSettings) -> GameRecord | None:
    if not path.is_file():
        return None
    record: GameRecord = json.loads(path.read_text(encoding="utf-8"))
    return record if record["settings"] == settings else None


def _perform(
    source: Source, name: str, schedule: Schedule, settings: GameSettings, records: Path, game: Game
) -> GameRecord:
    keep_freed_memory()
    torch.set_num_threads(1)
    study = load_study(source)
    played = play(study.subjects[name], study.scheme, game, schedule, default_device())
    record: GameRecord = {**played, "settings": settings}
    write_json(records / f"{game.key}.json", record)
    return record


def _merged(path: Path, data: str, summary: Comparison) -> dict[str, Comparison]:
    """Add a data set's results to the file; return all results in it.

    Results that were made with other settings can't be compared with these and are left out.
    """
    known: dict[str, Comparison] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content = {name: own for name, own in known.items() if own.get("settings") == summary["settings"]}
    for name in sorted(known.keys() - content.keys() - {data}):
        print(f"{name}: left out of the results, as its code or its schedule differs; run `simulate` on it again")
    content[data] = summary
    with replacing(path) as beside:
        beside.write_text(in_rows(content), encoding="utf-8")
    return content


def in_rows(content: Mapping[str, Comparison]) -> str:
    """Return indented JSON with each list of numbers in one line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"\[([^\[\]{}\"]+)\]", lambda row: f"[{' '.join(row[1].split())}]", text) + "\n"
