"""List, compare and restore versions of annotations in a studies folder, with or without a running server."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.statistics import annotation_statistics
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.reading import read_label_map
from lib.server.records import AnnotationInfo
from lib.server.slicer.replies import time_text
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.submission import remap
from lib.server.store.usable import read_all, unlike_channels
from lib.server.store.versions import VersionStore


def list_versions(studies: Path) -> str:
    """Describe every version of every image's annotation, and say which images training can't use.

    Args:
        studies: the folder that is served.

    Raises:
        InputError: the folder has no annotation.
    """
    store = VersionStore.existing(studies)
    channels, left_out = read_all(store, lambda image_id: store.annotated_volume(image_id, store.scheme)[0].channels)
    left_out |= unlike_channels(channels)
    lines = [
        line for image_id in store.list_images() for line in _list_image(store, image_id, left_out.get(image_id, ""))
    ]
    for name, tags in sorted(store.labels_without_image().items()):
        lines.append(f"{name}: {', '.join(tags)} kept, but {studies} has no image of this name; put its file back")
    return "\n".join(lines)


def _list_image(store: VersionStore, image_id: str, left_out: str) -> list[str]:
    versions, current = store.versions(image_id), store.current(image_id).get("version")
    if not versions:
        return [f"{image_id}: not annotated"]
    clients = max(len(_client(info)) for info in versions.values())
    lines = [f"{image_id}:"]
    for number, info in versions.items():
        known = info.get("statistics")
        percent = f"{known['labelled_percent']:.2f} % labelled" if known else "details are unknown"
        mark = ", the current one" if number == current else ""
        lines.append(f"  version {number:<3} {_time(info)}  {_client(info):{clients}}  {percent}{mark}")
        if known:
            lines.append(f"    annotated slices: {_slice_names(info).text(known['annotated_slices'])}")
    if left_out:
        lines.append(f"  can't be trained on: {left_out}")
    return lines


def show_version(studies: Path, image_id: str, version: int, against: int | None) -> str:
    """Compare a version of an image's annotation with another version.

    Args:
        studies: the folder that is served.
        image_id: the image.
        version: its version.
        against: the version to compare with; None: the current one or, if ``version`` is current, the previous one.

    Raises:
        InputError: there is no annotation, or no such image or version; a version can't be read; or both versions
            are the same.
    """
    if version == against:
        raise InputError(f"--against {against}: that is the version itself; give another one")
    store = VersionStore.existing(studies)
    store.version_file(image_id, version)
    current = store.current(image_id).get("version")
    if against is None:
        against = (
            current if version != current else max((n for n in store.versions(image_id) if n < version), default=None)
        )
    numbers = [version] if against is None else [version, against]
    for number in numbers:
        store.version_file(image_id, number)

    scheme = _common_scheme(store, image_id, numbers)
    maps = [_read_version(store, image_id, number, scheme) for number in numbers]
    infos = [store.versions(image_id)[number] for number in numbers]
    found = [annotation_statistics(annotation, scheme) for annotation in maps]
    rows = [
        ["", *(f"version {number}{' (current)' if number == current else ''}" for number in numbers)],
        ["time", *map(_time, infos)],
        ["client", *map(_client, infos)],
        ["labelled", *(f"{known['labelled_voxels']} voxels ({known['labelled_percent']:.2f} %)" for known in found)],
        *([name, *(str(known["voxels"][name]) for known in found)] for name in scheme.classes),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    names = _slice_names(infos[0])
    slices = [known["annotated_slices"] for known in found]
    if against is None:
        rest = [f"annotated slices: {names.text(slices[0])}"]
    elif maps[0].shape != maps[1].shape:
        raise InputError(
            f"image {image_id!r}: version {version} has the shape {maps[0].shape}, version {against} {maps[1].shape}; "
            "the image was replaced in between, so they can't be compared"
        )
    else:
        rest = [
            *(
                f"annotated slices in version {number} only: {names.text(_only(own, other))}"
                for number, own, other in ((version, slices[0], slices[1]), (against, slices[1], slices[0]))
            ),
            "",
            *describe_differences(maps[0], maps[1], scheme.classes, (f"version {version}", f"version {against}")),
        ]
    return "\n".join([f"{image_id}:", "", *table, "", *rest])


def restore_version(studies: Path, image_id: str, version: int, by_voxel: bool = False) -> str:
    """Make a version of an image's annotation the newest, see ``VersionStore.restore``; say what was done."""
    store = VersionStore.existing(studies)
    info = store.restore(image_id, version, by_voxel)
    warnings = "".join(f" Note that {warning}." for warning in info["warnings"])
    return (
        f"Version {info['version']} of {image_id} is version {version} restored, and is the current one now."
        f"{warnings} All other versions are kept. 3D Slicer shows it when you press Next Sample."
    )


def describe_differences(
    first: NDArray[np.uint8], second: NDArray[np.uint8], classes: Sequence[str], names: tuple[str, str]
) -> list[str]:
    """Count the voxels in which two annotations agree and differ.

    Args:
        first: (X, Y, Z), 0 where unlabelled, i for the i-th class.
        second: of the same shape.
        classes: names of the classes.
        names: what to call the two.
    """
    if np.array_equal(first, second):
        return ["the two are the same, voxel for voxel"]
    size = len(classes) + 1
    pairs = np.bincount(first.ravel().astype(np.intp) * size + second.ravel(), minlength=size**2).reshape(size, size)
    changed = {
        f"{classes[a - 1]} in {names[0]} but {classes[b - 1]} in {names[1]}": pairs[a, b]
        for a in range(1, size)
        for b in range(1, size)
        if a != b
    }
    counts = {
        f"labelled in {names[0]} only": dict(zip(classes, pairs[1:, 0], strict=True)),
        f"labelled in {names[1]} only": dict(zip(classes, pairs[0, 1:], strict=True)),
        "of another class": changed,
        "the same in both": dict(zip(classes, np.diagonal(pairs)[1:], strict=True)),
    }
    return [f"voxels {what}: {_sum_text(parts)}" for what, parts in counts.items()]


def _sum_text(parts: Mapping[str, int]) -> str:
    total = sum(parts.values())
    listed = ", ".join(f"{count} {name}" for name, count in parts.items() if count)
    return f"{total} ({listed})" if total else "0"


def _only(own: Sequence[Sequence[int]], other: Sequence[Sequence[int]]) -> list[list[int]]:
    return [sorted(set(a) - set(b)) for a, b in zip(own, other, strict=True)]


def _common_scheme(store: VersionStore, image_id: str, versions: Sequence[int]) -> LabelScheme:
    """Return a scheme with the classes of all versions, which may have been stored with different schemes."""
    own = store.scheme.classes
    named = [name for version in versions for name in store.version_names(image_id, version)]
    *foreground, background = dict.fromkeys([*(name for name in named if name not in own), *own])
    return LabelScheme(tuple(foreground), background)


def _read_version(store: VersionStore, image_id: str, version: int, scheme: LabelScheme) -> NDArray[np.uint8]:
    path = store.version_file(image_id, version)
    return remap(read_label_map(path).array.astype(np.uint8), store.version_names(image_id, version), scheme, str(path))


def _time(info: AnnotationInfo) -> str:
    return time_text(info["time"]) if info.get("time") else "unknown time"


def _client(info: AnnotationInfo) -> str:
    if info.get("restored_version"):
        return f"version {info['restored_version']} restored"
    return str(info.get("client_id") or "unnamed client")


def _slice_names(info: AnnotationInfo) -> SliceNames:
    return SliceNames.from_json(info["slice_names"]) if "slice_names" in info else SliceNames()
