"""The command ``reproduce``: do the runs of tables and of Figure 3, and write the results."""

import functools
import importlib.util
import itertools
import json
import logging
import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from lib.core.errors import InputError
from lib.core.files import write_json

from .assembly import TableResult, assemble
from .engine import outcomes
from .methods import METHODS, SIZES, OutOfTimeError, Size
from .provenance import commit
from .records import RunRecord
from .run import RECORDS, Run, RunContext, check_runs, finished, perform
from .study import Source, Study, load_study
from .tables import DEFAULT_METHODS, ROWS, runs_of

logger = logging.getLogger(__name__)

STARTING_SECONDS = 60
"""Time for other software to start, besides its time to learn."""

REPORT_PACKAGES = ("jinja2", "matplotlib", "PIL", "skimage")


@dataclass(frozen=True)
class ReproduceOptions:
    """What a person asks for.

    Attributes:
        tables: some of ``tables.ROWS``.
        size: one of ``SIZES``.
        folder: folder with ``images/`` and dense ``labels/``; None: the phantom.
        labels: names of the foreground classes in the folder, separated by commas; empty: class_1, …
        methods: names of methods; None: those of each table whose packages are installed.
        seeds: number of seeds; runs that differ only in their seed.
        steps: training steps for a quick look, whose results are kept apart; None: the size's.
        minutes: time after which runs stop, to be continued by the same command; None: no limit.
        jobs: number of parallel runs; None: one for each processor core. A GPU and other software always do one at a
            time.
        dask: address of a dask.distributed scheduler that does the runs instead; None: this machine does them.
        experiments: folder for ``results/``, and for ``work/`` with the runs.
    """

    tables: Sequence[str]
    size: str
    folder: Path | None
    labels: str
    methods: Sequence[str] | None
    seeds: int
    steps: int | None
    minutes: float | None
    jobs: int | None
    dask: str | None
    experiments: Path

    def part(self) -> Path:
        """Return the folder of the results, relative to those of all sizes and data sets."""
        size = self.size if self.steps is None else f"{self.size}_{self.steps}_steps"
        return Path(size, self.folder.resolve().name) if self.folder else Path(size)

    def command(self, table: str, records: Sequence[RunRecord]) -> str:
        """Return the commands that repeat a table: one for each number of seeds that some of its methods have."""
        by_seeds: dict[int, list[str]] = {}
        for method in METHODS:
            own = [record["seed"] for record in records if record["method"] == method]
            if own:
                by_seeds.setdefault(1 + max(own), []).append(method)
        return " && ".join(self._command(table, methods, seeds) for seeds, methods in by_seeds.items())

    def _command(self, table: str, methods: Sequence[str], seeds: int) -> str:
        given = {
            "--size": self.size,
            "--data": self.folder,
            "--labels": self.labels or None,
            "--methods": None if set(methods) == set(DEFAULT_METHODS[table]) else ",".join(methods),
            "--seeds": seeds if seeds > 1 else None,
            "--steps": self.steps,
        }
        words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        return shlex.join(["python", "-m", "experiments", "reproduce", table, *words])


def reproduce(options: ReproduceOptions) -> bool:
    """Do the runs that aren't finished yet, and write tables and report.

    Returns:
        Whether all runs are finished; False if the time was up, or some need a GPU that this machine lacks.

    Raises:
        InputError: the volumes or the options can't be used; another command works on these runs; or a run failed,
            in which case the others were still done.
    """
    _check(options)
    runs, study, context = planned(options)
    # Seed by seed, so that every table is complete before any is repeated.
    runs.sort(key=lambda run: run.seed)
    with _locked(context.work):
        return _make(runs, study, context, options)


def planned(options: ReproduceOptions) -> tuple[list[Run], Study, RunContext]:
    """Return the runs that the options ask for, finished or not, with their volumes and what they share.

    Raises:
        InputError: the volumes can't be used, or no method can do a table.
    """
    size = SIZES[options.size]
    work = options.experiments.resolve() / "work" / options.part()
    folder = options.folder.resolve() if options.folder else None
    source = Source(folder, options.labels, size.halved, options.experiments.resolve() / "work" / options.size)
    until = None if options.minutes is None else time.time() + 60 * options.minutes
    context = RunContext(source, size, work / RECORDS, work, until)
    study = load_study(source)
    runs: list[Run] = []
    for table in options.tables:
        methods = _methods(table, options)
        of_table = list(runs_of(table, study, methods, size, _seeds(table, options), options.steps))
        if not of_table:
            raise InputError(
                f"{table}: {', '.join(methods)} can only segment the volumes learnt from, but this table tests others; "
                "give other --methods"
            )
        runs += of_table
    return runs, study, context


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock the folder against other commands.

    Raises:
        InputError: another command works there.
    """
    work.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(work / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise InputError(
            f"{work}: another `reproduce` is at work there; wait until it ends, or give another --output"
        ) from error
    with held:
        yield


def _make(runs: Sequence[Run], study: Study, context: RunContext, options: ReproduceOptions) -> bool:
    """Do the runs that aren't finished yet, and write tables and report, see ``reproduce``."""
    kept = {run.key: finished(run, study, context) for run in runs}
    due = [run for run in runs if kept[run.key] is None]
    check_runs(due, study)
    print(f"{len(runs)} runs, {len(runs) - len(due)} of them are finished already.", flush=True)
    other = sorted(_commits(filter(None, kept.values())) - {commit()})
    if other:
        print(f"Some of these were made by other commits ({', '.join(other)}); remove {context.records} to repeat all.")
    left, failures = len(due), list[str]()
    if context.size.device == "cuda" and not (torch.cuda.is_available() or options.dask):
        due = [run for run in due if METHODS[run.method].on_cpu]
        if left > len(due):
            print(f"No GPU: skipping {left - len(due)} runs that need one.")
    for run, outcome in _outcomes(due, context, options):
        if outcome is None:
            continue
        left -= 1
        if isinstance(outcome, str):
            failures.append(f"{run.key}: {outcome}")
    results = options.experiments.resolve() / "results" / options.part()
    records = _records(options, study, context)
    for table in options.tables:
        _write_table(table, records[table], options, study, results)
    # A rented machine may lack the packages that draw pictures. The computer to which runs are copied then draws them.
    if all(map(importlib.util.find_spec, REPORT_PACKAGES)):
        from .report import write_report

        write_report(results / "report.html", results, records, study, context.dense)
        print(f"Report with pictures: {results / 'report.html'}")
    if failures:
        raise InputError("\n".join(failures))
    if left:
        print(f"{left} runs are unfinished; the same command continues them.")
    return not left


def _check(options: ReproduceOptions) -> None:
    """Refuse impossible options before any work is done.

    Raises:
        InputError: names the option, its value, and what is possible.
    """
    for method in options.methods or ():
        if method not in METHODS:
            raise InputError(f"--methods: {method!r}; give some of {', '.join(METHODS)}")
        if not METHODS[method].is_available:
            raise InputError(
                f"--methods: {method!r} needs the package {METHODS[method].package}, which is not installed; "
                "pip install -r benchmarks/requirements.txt"
            )
    if options.seeds < 1:
        raise InputError(f"--seeds: {options.seeds}; give at least 1")
    if options.steps is not None and options.steps < 1:
        raise InputError(f"--steps: {options.steps}; give at least 1")
    for method in options.methods or ():
        least = _seconds_at_once(method, SIZES[options.size])
        if least and options.minutes is not None and 60 * options.minutes <= least:
            raise InputError(
                f"--minutes: {options.minutes:g}; {method} takes {least / 60:g} minutes and can't be continued; give "
                "more"
            )
    if options.jobs is not None and options.jobs < 1:
        raise InputError(f"--jobs: {options.jobs}; give at least 1")
    if options.jobs is not None and options.dask:
        raise InputError(
            f"--jobs: {options.jobs}; the workers at --dask decide how many runs are done at a time; leave --jobs out"
        )


def _methods(table: str, options: ReproduceOptions) -> list[str]:
    """Return the methods of a table, each once."""
    if table == "figure3" or options.methods is None:
        missing = [method for method in DEFAULT_METHODS[table] if not METHODS[method].is_available]
        for method in missing:
            print(f"{table}: {method} is left out: the package {METHODS[method].package} is not installed")
        return [method for method in DEFAULT_METHODS[table] if method not in missing]
    return list(dict.fromkeys(options.methods))


def _seeds(table: str, options: ReproduceOptions) -> range:
    """Return the seeds of a table; the figure has one, as it shows one segmentation."""
    return range(1 if table == "figure3" else options.seeds)


def _seconds_at_once(method: str, size: Size) -> float:
    """Return the seconds that a method needs without interruption; 0 if it can be stopped at any time."""
    return size.peer_seconds + STARTING_SECONDS if METHODS[method].in_one_go else 0


def _attempt(context: RunContext, run: Run) -> tuple[Run, RunRecord | str | None]:
    """Do a run; return its record, or the reason for its failure, or None if the time was up."""
    try:
        if context.until is not None and time.time() + _seconds_at_once(run.method, context.size) >= context.until:
            return run, None
        return run, perform(run, context)
    except OutOfTimeError:
        return run, None
    except InputError as error:
        return run, str(error)
    except Exception as error:
        # Lack of memory or an error in other software doesn't stop the next runs.
        logger.exception("%s failed", run.key)
        return run, f"{type(error).__name__}: {error}"


def _outcomes(
    runs: Sequence[Run], context: RunContext, options: ReproduceOptions
) -> Iterator[tuple[Run, RunRecord | str | None]]:
    """Do runs; yield and print each outcome as it arrives."""
    began = time.monotonic()
    jobs = 1 if context.size.device == "cuda" else options.jobs
    attempt = functools.partial(_attempt, context)
    # Methods that can't be continued are other software, which starts processes. A worker process can't do that.
    alone = [run for run in runs if METHODS[run.method].in_one_go]
    together = [run for run in runs if run not in alone]
    attempts = itertools.chain(outcomes(attempt, together, jobs, options.dask), outcomes(attempt, alone, 1))
    for number, (run, outcome) in enumerate(attempts, start=1):
        if isinstance(outcome, dict):
            seconds = time.monotonic() - began
            print(
                f"[{seconds / 60:5.1f} min] {run.key}: IoU {outcome['mean_iou']:.3f} ({number} of {len(runs)} "
                f"done, about {seconds / number * (len(runs) - number) / 60:.0f} min left)",
                flush=True,
            )
        yield run, outcome


def _records(options: ReproduceOptions, study: Study, context: RunContext) -> dict[str, list[RunRecord]]:
    """Return the finished runs of all tables, including methods and seeds that weren't asked for."""
    records: dict[str, list[RunRecord]] = {}
    for table in ROWS:
        seeds = sorted({json.loads(path.read_text())["seed"] for path in context.records.glob(f"{table}-*.json")})
        runs = runs_of(table, study, list(METHODS), context.size, seeds, options.steps)
        records[table] = [record for run in runs if (record := finished(run, study, context)) is not None]
    return records


def _commits(records: Iterable[RunRecord]) -> set[str]:
    """Return the commits that had a part in runs."""
    return {commit for record in records for commit in record["commit"].split(", ")}


def _write_table(
    table: str, records: Sequence[RunRecord], options: ReproduceOptions, study: Study, results: Path
) -> None:
    if not records:
        return
    content: TableResult = {
        **assemble(table, study, records, printed_too=options.folder is None),
        "measure": f"mean IoU of {', '.join(study.scheme.foreground)}, on the test slices where no training slice "
        "crosses them",
        "size": options.size,
        "data": options.folder.resolve().name if options.folder else "phantom",
        "seeds": sorted({record["seed"] for record in records}),
        "command": options.command(table, records),
        "date": max(record["date"] for record in records),
        "commits": {
            method: commits
            for method in METHODS
            if (commits := sorted(_commits(r for r in records if r["method"] == method)))
        },
        "machines": sorted({machine for record in records for machine in record["machine"].split("; ")}),
        "minutes": round(sum(record["seconds"] for record in records) / 60, 1),
    }
    write_json(results / f"{table}.json", content)
