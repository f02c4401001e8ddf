"""Scores predicted label maps against true ones, and reports the scores as a table, as CSV and as JSON."""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lib.core.errors import InputError
from lib.core.evaluation import ABSENT, ClassScores, evaluate_files, mean_scores, pair_files
from lib.core.labels import LabelScheme

from .tables import print_table, write_csv

HEADINGS = {
    "iou": "IoU",
    "dice": "Dice",
    "assd_mm": "ASSD (mm)",
    "hd95_mm": "HD95 (mm)",
    "predicted_voxels": "predicted (voxels)",
    "labelled_voxels": "labelled (voxels)",
    "common_voxels": "common (voxels)",
}
MEAN = "mean"


@dataclass
class Report:
    """What was found.

    Attributes:
        volumes: scores by volume and class.
        mean: of the volumes, by class.
        faults: what couldn't be compared, and why.
    """

    volumes: dict[str, dict[str, ClassScores]] = field(default_factory=dict)
    mean: dict[str, ClassScores] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def run_evaluation(
    predictions: Path, labels: Path, csv_file: Path | None, as_json: bool, classes: str, ignore: int | None
) -> bool:
    """Score predictions and print the scores; return whether all could be compared.

    Args:
        predictions, labels: as of ``pair_files``.
        csv_file: where to write the scores as CSV too.
        as_json: whether to print JSON instead of a table.
        classes: names of the classes, separated by commas; empty: their numbers are their names.
        ignore: value of the voxels in the labels that don't count.

    Raises:
        InputError: nothing can be compared, the options don't fit, or the CSV file can't be written.
    """
    names = LabelScheme.parse(classes, "background").foreground if classes else ()
    if ignore == 0 and not names:
        raise InputError(
            "--ignore 0: name the classes by --classes, because the value after the last class is the background then"
        )
    pairs, faults = pair_files(predictions, labels)
    report = Report(faults=faults)
    console = Console(stderr=True)
    for name, (prediction, label) in track(
        pairs.items(), "Comparing", len(pairs), console=console, transient=True, disable=not console.is_terminal
    ):
        try:
            report.volumes[name] = evaluate_files(prediction, label, ignore, names)
        except (InputError, MemoryError, OSError) as error:
            report.faults.append(str(error) if isinstance(error, InputError) else f"{name}: {error}")
    _complete(report)
    if as_json:
        print(json.dumps({"volumes": report.volumes, MEAN: report.mean, "faults": report.faults}, indent=2))
    else:
        _print_table(report)
    for fault in report.faults:
        print(fault, file=sys.stderr)
    if csv_file:
        _write_csv(csv_file, report)
    return not report.faults


def _complete(report: Report) -> None:
    """Give all volumes the same classes, and add the mean."""
    found = {name for scores in report.volumes.values() for name in scores}
    # Numbers in their order; names are in the order of the classes in each volume already.
    order = sorted(found, key=int) if all(map(str.isdecimal, found)) else list(next(iter(report.volumes.values()), {}))
    for volume, scores in report.volumes.items():
        report.volumes[volume] = {name: scores.get(name, ABSENT) for name in order}
    report.mean = mean_scores(report.volumes.values())


def _rows(report: Report) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    for volume, scores in [*report.volumes.items(), (MEAN, report.mean)]:
        for name, of_class in scores.items():
            yield volume, name, of_class


def _print_table(report: Report) -> None:
    table = Table("volume", "class", box=box.SIMPLE_HEAD)
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right")
    last = ""
    for volume, name, scores in _rows(report):
        if last and volume != last:
            table.add_section()
        table.add_row("" if volume == last else volume, name, *(_text(key, scores[key]) for key in HEADINGS))
        last = volume
    print_table(table)


def _text(key: str, value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if key.endswith("_mm") else f"{value:.0f}" if key.endswith("_voxels") else f"{value:.3f}"


def _write_csv(path: Path, report: Report) -> None:
    rows = [{"volume": volume, "class": name, **scores} for volume, name, scores in _rows(report)]
    try:
        write_csv(path, {"volume": "volume", "class": "class", **HEADINGS}, rows)
    except OSError as error:
        raise InputError(f"--csv {path}: can't be written ({error.strerror})") from error
