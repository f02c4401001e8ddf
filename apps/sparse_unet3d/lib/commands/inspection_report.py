"""Shows what is known of a model file or a studies folder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from lib.core.errors import InputError
from lib.server.slicer.replies import time_text
from lib.server.slicer.slice_names import SliceNames

from .inspection import describe_folder, describe_model
from .tables import print_table


def inspect_and_report(path: Path, models: Path | None, as_json: bool) -> int:
    """Describe a model file or a studies folder on standard output.

    Args:
        path: the file or folder.
        models: the folder's models, if they lie elsewhere.
        as_json: whether to print JSON.

    Returns:
        The exit code: 1 if something in the folder is faulty.

    Raises:
        InputError: there is no such file or folder, or it can't be read as a model or as images.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a model file, or the folder that the server serves")
    found = describe_folder(path, models or path / "models") if path.is_dir() else describe_model(path)
    if as_json:
        print(json.dumps(found, indent=1))
    elif path.is_dir():
        _print_folder(found)
    else:
        print("\n".join(_model_lines(found)))
    return int(bool(found.get("faults")))


def _model_lines(model: Mapping[str, Any]) -> Iterator[str]:
    facts = {
        "model": f"{model['file']} ({model['size_bytes'] / 1e6:.1f} MB)",
        "classes": f"{', '.join(model['classes'])}; background {model['background']}",
        "channels": model["channels"],
        "network": f"{model['network']}, width {model['width']}, {model['parameters']} parameters",
        "voxel size": f"{_by(model['spacing_mm'])} mm" if model["spacing_mm"] else "each image's own",
        "tile": f"{_by(model['tile_voxels'])} voxels",
        "statistics": model["statistics"],
        "loss": model["loss"],
        "recipe": model["recipe"],
        "score": f"{model['score']:.3f} ({model['metric']})",
        "training": f"run {model['run']}, epoch {model['epoch']}",
        "slices": f"{model['training_slices']} trained on, {model['held_out_slices']} held out, in {model['images']} "
        "images",
    }
    yield from (f"{name + ':':12} {fact}" for name, fact in facts.items())
    yield "differs from the paper:"
    yield from (f"  {line}" for line in model["differs_from_paper"] or ["in nothing"])


def _print_folder(found: Mapping[str, Any]) -> None:
    headings = ("image", "shape", "voxel (mm)", "channels", "type", "format", "versions", "labelled", "prediction")
    table = Table(*headings, box=box.SIMPLE_HEAD)
    slices, crops = [], []
    for name, image in found["images"].items():
        annotation = image.get("annotation", {})
        percent = annotation.get("labelled_percent")
        table.add_row(
            name,
            _by(image.get("shape", ())),
            _by(image.get("voxel_mm", ())),
            str(image.get("channels", "")),
            image.get("type", ""),
            image["format"],
            ", ".join(map(str, image["versions"])),
            "" if percent is None else f"{percent:.2f} %",
            _prediction_text(image.get("prediction")),
        )
        if crop := image.get("crop_of"):
            crops.append(f"  {name}: {crop['image']}, level {crop['level']}, from voxel {crop['start']}")
        if indices := annotation.get("annotated_slices"):
            names = annotation["slice_names"]
            slices.append(f"  {name}: {(SliceNames.from_json(names) if names else SliceNames()).text(indices)}")
    print_table(table)
    for title, lines in (
        ("Annotated slices", slices),
        ("Crops of larger images", crops),
        ("Published model", [f"  {line}" for line in _model_lines(found["model"])] if found["model"] else ["  none"]),
        ("Notes", [f"  {note}" for note in found["notes"]]),
        ("Faults", [f"  {fault}" for fault in found["faults"]]),
    ):
        if lines:
            print("\n".join([f"{title}:", *lines, ""]))


def _prediction_text(prediction: Mapping[str, Any] | None) -> str:
    if prediction is None:
        return ""
    model, time = prediction["model"] or {}, prediction["time"]
    by = f"run {model['run']}, epoch {model.get('epoch', '?')}" if "run" in model else "unknown model"
    return f"{time_text(time)}, {by}" if time else by


def _by(sizes: Any) -> str:
    return " × ".join(f"{size:.6g}" for size in sizes)
