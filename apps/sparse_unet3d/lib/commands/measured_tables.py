"""The tables of measures: of classes, of objects, and what their columns mean."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from lib.core.measurement.measures import MOST_OBJECTS, ClassMeasures, Measures
from lib.core.measurement.surfaces import SMOOTHING

from .tables import write_csv

CLASSES, OBJECTS, COLUMNS = "classes.csv", "objects.csv", "columns.csv"

_MEANINGS = {
    "volume": "name of the segmented volume",
    "class": "name of the class",
    "object": "number of the object in its class; the largest has number 1",
    "objects": "how many objects the class has: connected components, or parts of these with --split; a network hasn't "
    "learnt to tell them apart",
    "voxels": "number of voxels",
    "volume_mm3": "number of voxels times the volume of one",
    "surface_mm2": f"area of the surface by marching cubes after {SMOOTHING} steps of Taubin's smoothing; a rough "
    "estimate for objects of few voxels",
    "centroid_l_mm": "mean place of the voxels towards the patient's left, L of LPS; 3D Slicer shows R, which has the "
    "opposite sign",
    "centroid_p_mm": "mean place of the voxels towards the back, P of LPS; 3D Slicer shows A, which has the opposite "
    "sign",
    "centroid_s_mm": "mean place of the voxels upwards, S, as in 3D Slicer",
    "extent_x_mm": "length along the image's first axis, from outer face to outer face",
    "extent_y_mm": "length along the image's second axis",
    "extent_z_mm": "length along the image's third axis",
    "mean_intensity_C": "mean of channel C over the voxels, in the numbers of the image's file",
    "length_mm": "length of all branches of the skeleton, for the classes of --tubes",
    "touches_border": "yes if a voxel lies on the border of the image: a part of the object may lie outside",
    "left_out_objects": "components with fewer voxels than --min-voxels, which nothing else in the row counts",
    "left_out_voxels": "voxels of these components",
    "notes": "what to know before the numbers are used",
}
"""What each column means. The ending of a column's name is its unit."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a volume.

    Attributes:
        classes: measures by the names of the classes.
        notes: what to tell a person about its files.
    """

    classes: Mapping[str, ClassMeasures]
    notes: tuple[str, ...]


def write_tables(out: Path, volumes: Mapping[str, Measured]) -> None:
    """Write what was measured, by the volumes' names, as CSV into a folder.

    Raises:
        OSError: a file can't be written.
    """
    channels = max((len(of.whole.intensities) for _, _, of, _ in _rows(volumes) if of.whole), default=0)
    classes = [
        {
            "volume": volume,
            "class": name,
            "objects": of.objects,
            **_cells(of.whole, channels),
            "left_out_objects": of.left_out,
            "left_out_voxels": of.left_out_voxels,
            "notes": "; ".join([*_class_notes(of), *notes]),
        }
        for volume, name, of, notes in _rows(volumes)
    ]
    objects = [
        {"volume": volume, "class": name, "object": number, **_cells(each, channels)}
        for volume, name, of, _ in _rows(volumes)
        for number, each in enumerate(of.each, start=1)
    ]
    columns = [{"column": name, "unit": _unit(name), "meaning": meaning} for name, meaning in _MEANINGS.items()]
    cells = [*_cells(None, channels)]
    last = ["left_out_objects", "left_out_voxels", "notes"]
    write_csv(out / CLASSES, ["volume", "class", "objects", *cells, *last], classes)
    write_csv(out / OBJECTS, ["volume", "class", "object", *cells], objects)
    write_csv(out / COLUMNS, ["column", "unit", "meaning"], columns)


def classes_table(volumes: Mapping[str, Measured]) -> Table:
    """Return a table of the classes, for the terminal."""
    table = Table("volume", "class", box=box.SIMPLE_HEAD)
    for heading in ("objects", "voxels", "volume (mm³)", "surface (mm²)", "length (mm)"):
        table.add_column(heading, justify="right")
    table.add_column("")
    last = ""
    for volume, name, of, _ in _rows(volumes):
        if last and volume != last:
            table.add_section()
        cells = _cells(of.whole, 0)
        shown = [_short(cells[key]) for key in ("voxels", "volume_mm3", "surface_mm2", "length_mm")]
        border = ["touches the border"] if of.whole and of.whole.touches_border else []
        notes = "; ".join([*border, *_class_notes(of)])
        table.add_row("" if volume == last else volume, name, str(of.objects), *shown, notes)
        last = volume
    return table


def _rows(volumes: Mapping[str, Measured]) -> Iterator[tuple[str, str, ClassMeasures, tuple[str, ...]]]:
    """Yield each volume's name with each of its classes, what is measured of it, and notes on the volume."""
    for volume, measured in volumes.items():
        for name, of in measured.classes.items():
            yield volume, name, of, measured.notes


def _class_notes(of: ClassMeasures) -> list[str]:
    if of.objects > MOST_OBJECTS:
        return [f"more than {MOST_OBJECTS} objects, which have no rows of their own; raise --min-voxels"]
    if of.objects:
        return []
    return ["no object of enough voxels" if of.left_out else "no voxel of this class"]


def _cells(of: Measures | None, channels: int) -> dict[str, object]:
    """Return the cells of a class or an object by their columns, for images with at most so many channels."""
    places: Sequence[object] = of.centroid if of else [None] * 3
    sides: Sequence[object] = of.extent if of else [None] * 3
    means: Sequence[object] = [*(of.intensities if of else ()), *[None] * channels]
    return {
        "voxels": of.voxels if of else 0,
        "volume_mm3": of.volume if of else 0.0,
        "surface_mm2": of.surface if of else 0.0,
        **{f"centroid_{axis}_mm": place for axis, place in zip("lps", places, strict=True)},
        **{f"extent_{axis}_mm": side for axis, side in zip("xyz", sides, strict=True)},
        **{f"mean_intensity_{number}": means[number] for number in range(channels)},
        "length_mm": of.length if of else None,
        "touches_border": ("yes" if of.touches_border else "no") if of else None,
    }


def _unit(column: str) -> str:
    """Return the unit that a column's name ends in; empty if there is none."""
    found = re.search(r"_mm([23]?)$", column)
    return f"mm{ {'': '', '2': '²', '3': '³'}[found[1]] }" if found else ""


def _short(cell: object) -> str:
    return "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
