"""Replies of the server that people read: to a submission, and to a faulty request."""

from collections.abc import Iterator, Sequence, Set
from datetime import datetime, timezone
from typing import NoReturn

from fastapi import HTTPException

from lib.core.annotation.slices import Unpainted
from lib.core.annotation.statistics import AnnotationStatistics, filled_slices, learnable_classes
from lib.core.labels import LabelScheme
from lib.server.records import AnnotationInfo, PreviousVersion

from .slice_names import SliceNames

UNNAMED = (None, "", "user-xyz")
"""Client ids that identify nobody; 3D Slicer's plugin sends the last one until the user sets another."""


def not_found(what: str) -> NoReturn:
    """Answer HTTP 404."""
    raise HTTPException(status_code=404, detail=what)


def busy(what: str) -> NoReturn:
    """Answer HTTP 503."""
    raise HTTPException(status_code=503, detail=what)


def submission_reply(
    image_id: str,
    info: AnnotationInfo,
    scheme: LabelScheme,
    unpainted: Unpainted,
    learnable: Set[str],
    paint_next: str | None,
) -> dict[str, object]:
    """Tell the annotator how a submission was understood.

    3D Slicer shows the reply as indented JSON, with all non-ASCII characters as codes; only the first lines are visible
    without scrolling. Therefore the most important keys come first, and lists of slices are written as text. Programs
    find the slices as numbers, in the order of the file, in the label's info.

    Args:
        image_id: the image.
        info: the label info of its new annotation.
        scheme: the label scheme.
        unpainted: what unpainted voxels in annotated slices count as.
        learnable: classes that can be learnt from the annotations of all images together.
        paint_next: which slice of the image to paint next, if any.
    """
    statistics, names = info["statistics"], SliceNames.from_json(info["slice_names"])
    slices, voxels = statistics["annotated_slices"], statistics["voxels"]
    count, filled = sum(map(len, slices)), filled_slices(statistics)
    warnings = list(info["warnings"])
    if info["earlier"]:
        warnings += _describe_previous_version(info["earlier"], info["client_id"], names)
    warnings += annotation_warnings(statistics, names, scheme, unpainted)
    missing = _not_painted(statistics, scheme)
    share = statistics["labelled_percent"] / statistics["labelled_voxels"]
    return {
        "message": f"Version {info['version']} of {image_id!r} is stored: {statistics['labelled_voxels']} labelled "
        f"voxels ({statistics['labelled_percent']:.2f} % of all), {_counted(count, 'annotated slice')}.",
        "warnings": warnings,
        "next": _next_step(missing, learnable, scheme),
        **({"paint_next": paint_next} if paint_next else {}),
        "annotated_slices": names.by_axis(slices),
        **(
            {"unpainted": _what_unpainted_voxels_count_as(slices, filled, names, scheme)}
            if unpainted == "background" and count
            else {}
        ),
        "labelled_voxels": voxels,
        "labelled_percent": {name: round(share * number, 3) for name, number in voxels.items()},
        "version": info["version"],
    }


def annotation_warnings(
    statistics: AnnotationStatistics, names: SliceNames, scheme: LabelScheme, unpainted: Unpainted
) -> list[str]:
    """Say what an annotation lacks for training.

    Args:
        statistics: of the annotation.
        names: what to call its slices.
        scheme: the label scheme.
        unpainted: what unpainted voxels in annotated slices count as.
    """
    slices, dabs = statistics["annotated_slices"], statistics["mostly_unpainted"]
    little = [sorted(set(own) & set(few)) for own, few in zip(filled_slices(statistics), dabs, strict=True)]
    warnings = []
    if missing := _not_painted(statistics, scheme):
        warnings.append(f"{', '.join(missing)}: not painted in this image")
    if scheme.background not in learnable_classes(statistics, scheme, unpainted):
        warnings.append(
            f"no {scheme.background} is painted: only voxels painted as {scheme.background} teach the model what "
            "belongs to none of the structures"
        )
    if unpainted == "background" and any(little):
        warnings.append(
            f"{names.text(little)}: hardly anything is painted there, and the rest of each of these slices counts as "
            f"{scheme.background}; finish the slice, or erase your paint if it was only a dab"
        )
    if not any(slices):
        warnings.append("no annotated slice was found, only single strokes or blobs; paint a whole slice")
    elif sum(map(bool, slices)) == 1:
        warnings.append("all annotated slices lie across one axis; slices across the other axes help most now")
    return warnings


def _not_painted(statistics: AnnotationStatistics, scheme: LabelScheme) -> list[str]:
    return [name for name in scheme.foreground if not statistics["voxels"][name]]


def time_text(time: str) -> str:
    """Write a stored time for people in any time zone: ``2026-11-24 03:14 UTC``."""
    return f"{datetime.fromisoformat(time).astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _describe_previous_version(earlier: PreviousVersion, client_id: str | None, names: SliceNames) -> Iterator[str]:
    """Say who submitted the previous version, if another client did, and which of its slices the new one lacks."""
    number, gone, client = earlier["version"], earlier["gone_slices"], earlier["client_id"]
    still = f"{names.text(gone)}; version {number} still has them, and whoever runs the server can restore it"
    when = time_text(earlier["time"]) if earlier["time"] else "at an unknown time"
    if earlier["restored_version"]:
        whose = f"the previous version, {number}, is version {earlier['restored_version']}, restored {when}"
    elif client != client_id:
        name = f"another client, {client!r}" if client else "another client, without a name"
        whose = f"the previous version, {number}, came from {name}, {when}"
    elif client in UNNAMED:
        whose = (
            f"the previous version, {number}, came {when} from a client without a name of its own, like this one; if "
            "it wasn't you, see what it has by Next Sample (names: Edit > Application Settings > MONAI Label)"
        )
    elif any(gone):
        yield f"annotated slices that this version no longer has: {still}"
        return
    else:
        return
    yield f"{whose}; " + (
        f"its annotated slices that this version doesn't have: {still}"
        if any(gone)
        else "all its annotated slices are annotated in this version too; where both differ, this version counts"
    )


def _what_unpainted_voxels_count_as(
    slices: Sequence[Sequence[int]], filled: Sequence[Sequence[int]], names: SliceNames, scheme: LabelScheme
) -> str:
    if filled == slices:
        return f"Unpainted voxels in these slices count as {scheme.background}."
    others = "if paint is solid or belongs to slices across other axes, the voxels beside it stay unlabelled"
    if not any(filled):
        return f"Unpainted voxels in these slices are ignored: {others}."
    return (
        f"Unpainted voxels count as {scheme.background} in these slices: {names.text(filled)}. In the other "
        f"slices they are ignored: {others}."
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _next_step(missing: Sequence[str], learnable: Set[str], scheme: LabelScheme) -> str:
    if len(learnable) < 2:
        wanted = [name for name in scheme.classes if name not in learnable]
        return f"Paint some of {', '.join(wanted)} too, here or in another image; training needs at least two classes."
    if missing:
        return f"Paint {', '.join(missing)} too where you see it, or press Train."
    return "Press Train; then Run, look where the result is wrong, paint there, and submit again."
