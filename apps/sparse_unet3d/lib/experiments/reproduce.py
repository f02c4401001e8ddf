"""The command ``reproduce``: do the runs of tables and of Figure 3, and write what came out."""

import importlib.util
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..core.errors import InputError
from ..core.files import write_json
from .methods import METHODS, SIZES, OutOfTimeError
from .run import Record, Run, Setting, check_runs, finished, perform
from .study import Source, Study, load_study
from .tables import assemble, runs_of


@dataclass(frozen=True)
class Options:
    """What a person asks for.

    Attributes:
        tables: some of ``tables.ROWS``.
        size: one of ``SIZES``.
        folder: with ``images/`` and dense ``labels/``; None: the phantom.
        labels: names of the foreground classes in the folder, separated by commas; empty: class_1, …
        methods: names of methods; None: those of each table.
        seeds: how many runs differ only in their seed.
        steps: of training; None: as many as the size has.
        minutes: after which runs stop, to be continued by the same command; None: never.
        device: ``cpu`` or ``cuda``.
        jobs: runs at the same time; None: one for each processor core. On a GPU always one.
        dask: address of a scheduler of dask.distributed that does the runs; None: this machine does.
        experiments: folder with ``results/``, and ``work/`` for what isn't finished.
    """

    tables: Sequence[str]
    size: str
    folder: Path | None
    labels: str
    methods: Sequence[str] | None
    seeds: int
    steps: int | None
    minutes: float | None
    device: str
    jobs: int | None
    dask: str | None
    experiments: Path


def reproduce(options: Options) -> bool:
    """Do what is still to be done, and write tables and report.

    Returns:
        Whether all runs are finished; False if time was up before.

    Raises:
        InputError: the volumes or the options cannot be used; or a run failed, after all others were done.
    """
    _check(options)
    began = time.monotonic()
    until = None if options.minutes is None else time.time() + 60 * options.minutes
    source = Source(
        options.folder, options.labels, SIZES[options.size].halved, options.experiments / "work" / options.size
    )
    part = Path(options.size) if options.folder is None else Path(options.size, source.name)
    results, work = options.experiments / "results" / part, options.experiments / "work" / part
    setting = Setting(source, SIZES[options.size], options.device, results / "runs", work, until)
    study = load_study(source)
    runs = [
        run
        for table in options.tables
        for run in runs_of(table, study, options.methods, setting.size, options.seeds, options.steps)
    ]
    check_runs(runs, study)
    # Seed by seed, so that all tables are there before the first is repeated.
    runs.sort(key=lambda run: run.seed)
    records = {run.key: record for run in runs if (record := finished(run, study, setting))}
    due = [run for run in runs if run.key not in records]
    print(f"{len(runs)} runs, {len(records)} of them are finished already.", flush=True)
    failures, late = [], 0
    for number, (run, outcome) in enumerate(_outcomes(due, setting, options), start=1):
        if outcome is None:
            late += 1
            continue
        if isinstance(outcome, str):
            failures.append(f"{run.key}: {outcome}")
            continue
        records[run.key] = outcome
        seconds = time.monotonic() - began
        left = seconds / number * (len(due) - number)
        print(
            f"[{seconds / 60:5.1f} min] {run.key}: IoU {outcome['mean_iou'] or 0:.3f} "
            f"({number} of {len(due)} done, about {left / 60:.0f} min left)",
            flush=True,
        )
        _write_tables(options, runs, records, study, results)
    _write_tables(options, runs, records, study, results)
    # A rented machine may lack matplotlib: the report is then written where the results are taken to.
    if importlib.util.find_spec("matplotlib"):
        from .report import write_report

        write_report(results / "report.html", results, study, setting.dense)
        print(f"Report with pictures: {results / 'report.html'}")
    if failures:
        raise InputError("\n".join(failures))
    if late:
        print(f"Time is up with {late} runs unfinished; the same command goes on with them.")
    return not late


def _check(options: Options) -> None:
    unknown = [method for method in options.methods or () if method not in METHODS]
    if unknown:
        raise InputError(f"--methods: {unknown[0]!r}; give some of {', '.join(METHODS)}")
    if options.seeds < 1:
        raise InputError(f"--seeds: {options.seeds}; give at least 1")
    if options.steps is not None and options.steps < 1:
        raise InputError(f"--steps: {options.steps}; give at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: 'cuda', but torch finds no GPU here; give cpu")
    if options.dask and not importlib.util.find_spec("distributed"):
        raise InputError("--dask: the package distributed is not installed; pip install distributed")


def _attempt(run: Run, setting: Setting) -> tuple[Run, Record | str | None]:
    """Do a run; return its record, or why it failed, or None where time was up."""
    try:
        if setting.until is not None and time.time() >= setting.until:
            return run, None
        return run, perform(run, setting)
    except OutOfTimeError:
        return run, None
    except InputError as error:
        return run, str(error)


def _outcomes(runs: Sequence[Run], setting: Setting, options: Options) -> Iterator[tuple[Run, Record | str | None]]:
    if (options.jobs == 1 and not options.dask) or options.device == "cuda":
        yield from (_attempt(run, setting) for run in runs)
        return
    # Imported here: a rented machine may lack it, and does one run at a time.
    import joblib

    if options.dask:
        from distributed import Client

        with Client(options.dask), joblib.parallel_config("dask"):
            yield from joblib.Parallel(return_as="generator_unordered")(
                joblib.delayed(_attempt)(run, setting) for run in runs
            )
        return
    # One thread to a run: several small networks at a time are trained faster so than one by several threads.
    with joblib.parallel_config("loky", n_jobs=options.jobs or joblib.cpu_count(), inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(_attempt)(run, setting) for run in runs
        )


def _write_tables(
    options: Options, runs: Sequence[Run], records: Mapping[str, Record], study: Study, results: Path
) -> None:
    """Write what is known of each table that was asked for."""
    for table in options.tables:
        own = [records[run.key] for run in runs if run.table == table and run.key in records]
        if not own:
            continue
        content = {
            **assemble(table, study, own, printed_too=options.folder is None),
            "measure": f"mean IoU of {', '.join(study.scheme.foreground)} over the voxels of the test slices",
            "size": options.size,
            "data": options.folder.resolve().name if options.folder else "phantom",
            "seeds": sorted({record["seed"] for record in own}),
            "command": _command(table, options),
            "date": datetime.now(UTC).date().isoformat(),
            "commits": sorted({record["commit"] for record in own}),
            "machines": sorted({record["machine"] for record in own}),
        }
        write_json(results / f"{table}.json", content)


def _command(table: str, options: Options) -> str:
    """Return the command that makes a table anew."""
    given = {
        "--data": options.folder.name if options.folder else None,
        "--labels": options.labels or None,
        "--methods": ",".join(options.methods) if options.methods else None,
        "--seeds": options.seeds if options.seeds > 1 else None,
        "--steps": options.steps,
    }
    words = [f"{name} {value}" for name, value in given.items() if value is not None]
    return " ".join(["python apps/sparse_unet3d reproduce", table, f"--size {options.size}", *words])
