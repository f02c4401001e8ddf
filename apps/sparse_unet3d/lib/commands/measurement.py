"""Measures segmentations, and reports the measures as tables, as JSON and as surfaces."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from lib.core.errors import InputError
from lib.core.files import make_folder
from lib.core.labels import LabelScheme
from lib.core.measurement.measures import ClassMeasures, MeasuringOptions, measure
from lib.core.measurement.surfaces import write_surface
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.label_maps import read_exported
from lib.core.volumes.reading import read_geometry, read_volume

from .errors import saying_what_failed
from .measured_tables import Measured, classes_table, write_tables
from .segmented import Segmented, find_segmented
from .tables import print_table


def measure_and_report(
    labels: Path,
    images: Path | None,
    out: Path,
    classes: str,
    options: MeasuringOptions,
    surfaces: str | None,
    as_json: bool,
) -> bool:
    """Measure segmentations, and write tables of classes and objects, and surfaces.

    Args:
        labels, images: see ``find_segmented``.
        out: the folder to write into.
        classes: names of the classes, separated by commas; empty: those stored beside the label maps.
        options: what counts as an object, and what is measured.
        surfaces: ending of the surfaces to write, such as stl; None to write none.
        as_json: whether to print JSON instead of a table.

    Returns:
        Whether everything could be measured.

    Raises:
        InputError: nothing was found, there is no such class, or the folder can't be written to.
    """
    names = LabelScheme.parse(classes, "background").foreground if classes else ()
    segmented, faults = find_segmented(labels, images, names)
    _check_tubes(options.tubes, segmented.values())
    measured: dict[str, Measured] = {}
    console = Console(stderr=True)
    with saying_what_failed(out):
        make_folder(out)
        for name, one in track(
            segmented.items(),
            "Measuring",
            len(segmented),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            try:
                found = measure_one(one, options)
            except (InputError, MemoryError) as error:
                faults.append(str(error) if isinstance(error, InputError) else f"{name}: {error}")
                continue
            if surfaces:
                _write_surfaces(out / "surfaces", name, found.classes, surfaces)
            # The surfaces of many volumes would fill the memory.
            of_classes = {of: replace(measures, mesh=None) for of, measures in found.classes.items()}
            measured[name] = replace(found, classes=of_classes)
        write_tables(out, measured)
    if as_json:
        volumes = {name: asdict(one) for name, one in measured.items()}
        print(json.dumps({"volumes": volumes, "faults": faults}, indent=1))
    else:
        print_table(classes_table(measured))
        for note in dict.fromkeys(note for one in measured.values() for note in one.notes):
            print(f"Note: {note}", file=sys.stderr)
    for fault in faults:
        print(fault, file=sys.stderr)
    return not faults


def measure_one(segmented: Segmented, options: MeasuringOptions) -> Measured:
    """Measure a segmentation; classes of tubes that it doesn't have don't matter.

    Raises:
        InputError: a file can't be read, the label map doesn't lie on the image, or a value is no class.
    """
    labels = read_exported(segmented.labels)
    array, affine, channels = labels.array, labels.affine, None
    notes = [read_geometry(segmented.image or segmented.labels).unit_note]
    if segmented.image:
        volume = read_volume(segmented.image)
        array, affine, channels = onto_grid(labels, volume), volume.affine, volume.array
        notes += volume.notes
    classes = segmented.classes or tuple(str(value) for value in range(1, int(array.max()) + 1))
    if not classes:
        raise InputError(f"{segmented.labels}: all voxels are 0, so there is nothing to measure")
    options = replace(options, tubes=tuple(name for name in options.tubes if name in classes))
    try:
        found = measure(array, affine, classes, options, channels)
    except InputError as error:
        raise InputError(f"{segmented.labels}: {error}") from error
    return Measured(found, tuple(filter(None, notes)))


def _check_tubes(tubes: Sequence[str], segmented: Iterable[Segmented]) -> None:
    known = {name for one in segmented for name in one.classes}
    unknown = [name for name in tubes if known and name not in known]
    if unknown:
        raise InputError(f"--tubes: there is no class {unknown[0]!r}; the classes are {', '.join(sorted(known))}")


def _write_surfaces(folder: Path, volume: str, classes: Mapping[str, ClassMeasures], ending: str) -> None:
    make_folder(folder)
    for value, (name, measures) in enumerate(classes.items(), start=1):
        # A class may have any name; a file may not.
        safe = re.sub(r"[^\w-]+", "_", name)
        path = folder / f"{volume}_{value}_{safe}.{ending}"
        if measures.mesh is None:
            path.unlink(missing_ok=True)
        else:
            write_surface(path, measures.mesh)
