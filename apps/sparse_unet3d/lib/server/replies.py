"""What the server answers to people: to a submission, and to a client that is at fault."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from fastapi import HTTPException

from ..core.errors import InputError
from ..core.labels import LabelScheme


@contextmanager
def errors_for_clients() -> Iterator[None]:
    """Turn an ``InputError`` into HTTP 400 with its message, which 3D Slicer's plugin shows to the annotator.

    Any other exception would reach the client as HTTP 500 without a word. Also a decorator.
    """
    try:
        yield
    except InputError as error:
        raise HTTPException(status_code=400, detail=str(error)) from error


def not_found(what: str) -> NoReturn:
    """Answer HTTP 404."""
    raise HTTPException(status_code=404, detail=what)


def submission_reply(image_id: str, info: Mapping[str, Any], scheme: LabelScheme) -> dict[str, Any]:
    """Tell the annotator what was understood of a submission.

    Args:
        image_id: the image.
        info: the label info of its new annotation.
        scheme: the label scheme.
    """
    statistics = info["statistics"]
    slices, voxels = statistics["annotated_slices"], statistics["voxels"]
    count = sum(map(len, slices))
    warnings = list(info["warnings"])
    missing = [name for name in scheme.foreground if not voxels[name]]
    if missing:
        warnings.append(f"{', '.join(missing)}: not painted in this image")
    if not voxels[scheme.background]:
        warnings.append(
            f"no {scheme.background} is painted: only voxels painted as {scheme.background} teach the model what is "
            "none of the structures"
        )
    if count == 0:
        warnings.append("no annotated slice was found, only single strokes or blobs; paint a whole slice")
    elif sum(map(bool, slices)) == 1:
        warnings.append("all annotated slices lie across one axis; slices across the other axes help most now")
    if any(info["gone_slices"]):
        warnings.append(
            f"annotated slices that are not in this version any more: {_by_axis_text(info['gone_slices'])}; "
            f"version {info['earlier_version']} still holds them"
        )
    return {
        "message": f"Version {info['version']} of {image_id!r} is stored: {statistics['labelled_voxels']} voxels "
        f"({statistics['labelled_percent']:.2f} %) on {count} annotated slices.",
        "version": info["version"],
        "annotated_slices": {f"axis {axis}": indices for axis, indices in enumerate(slices)},
        "labelled_voxels": voxels,
        "labelled_percent": round(statistics["labelled_percent"], 3),
        "warnings": warnings,
        "next": _next_step(missing, voxels, scheme),
    }


def _by_axis_text(slices: Sequence[Sequence[int]]) -> str:
    return "; ".join(f"axis {axis}: {', '.join(map(str, indices))}" for axis, indices in enumerate(slices) if indices)


def _next_step(missing: Sequence[str], voxels: Mapping[str, int], scheme: LabelScheme) -> str:
    if sum(map(bool, voxels.values())) < 2:
        wanted = [name for name in scheme.classes if not voxels[name]]
        return f"Paint some of {', '.join(wanted)} too, here or in another image; one class alone can't be learnt from."
    if missing:
        return f"Paint {', '.join(missing)} too where it is to be found, or press Train."
    return "Press Train; then Run, look where the result is wrong, paint there, and submit again."
