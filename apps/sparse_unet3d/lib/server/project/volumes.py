"""What the page of a project says of each volume."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.split import SliceSplit, block_flags, plane_flags
from lib.core.annotation.suggestion import Suggestion
from lib.core.colours import colours
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.reading import read_label_map, read_volume
from lib.core.volumes.volume import Geometry, Volume
from lib.report.outlines import OutlinedSlice, outlines
from lib.report.page import Shown
from lib.report.pictures import composite, file_of, view
from lib.report.project_page import Advice, Axis, Version, VolumeSection
from lib.server.records import AnnotationInfo
from lib.server.slicer.replies import time_text
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.datastore import PREDICTION, UNCERTAINTY, AnnotationStore
from lib.server.store.predictions import stored_prediction
from lib.server.tasks.suggestions import Suggestions, described

SUGGESTED = 3
"""How many slices to paint next are shown of each volume."""

PICTURE_PIXELS = 400
"""Width on the screen of a volume's longest side: three views fit beside each other."""

MIDDLE_AXES = (2, 1, 0)
"""The axes of the views, in the order in which they are shown."""


def describe_volume(
    store: AnnotationStore, suggestions: Suggestions, scheme: LabelScheme, split: SliceSplit | None, image_id: str
) -> VolumeSection:
    """Return all that is known of a volume; what can't be read is said in it.

    Args:
        store: the datastore.
        suggestions: suggests slices by the stored prediction.
        scheme: the label scheme.
        split: what the published model learnt from and what was held out; None without a model.
        image_id: the volume's name.
    """
    versions = _versions(store, image_id)
    try:
        store.image_files(image_id)
        volume = read_volume(store.get_image_uri(image_id))
        # A prediction counts only if it was made for this image.
        store.checksum(image_id)
        image, found, note = suggestions.of(image_id, SUGGESTED, at_once=True)
        annotation = store.annotation(image_id, image, scheme) if store.current(image_id) else None
        prediction = _prediction(store, image_id, image, scheme)
    except (InputError, OSError) as error:
        return VolumeSection(image_id, [], str(error), versions=versions)
    names = SliceNames.of(image)
    advice = [described(suggestion, image, names) for suggestion in found]
    planes = {"paint": annotation, "prediction": prediction}
    scaled = scale_intensity(volume.array)
    return VolumeSection(
        image_id,
        _facts(store.current(image_id), image),
        axes=_axes(store, image_id, image, found, split, names),
        views=[
            outlined(volume, scaled, planes, scheme, AnnotatedSlice(axis, image.shape[axis] // 2), names)
            for axis in MIDDLE_AXES
        ],
        advice=[Advice(one["name"], one["why"]) for one in advice],
        note=note,
        prediction=_describe_prediction(store, image_id),
        versions=versions,
    )


def outlined(
    volume: Volume,
    scaled: NDArray[np.float32],
    labels: "dict[str, NDArray[np.uint8] | None]",
    scheme: LabelScheme,
    place: AnnotatedSlice,
    names: SliceNames,
) -> OutlinedSlice:
    """Return a slice of a volume with outlines of labels, as 3D Slicer shows it.

    Args:
        volume: the volume.
        scaled: (C, X, Y, Z) its intensities in 0 … 1.
        labels: (X, Y, Z) labels of each kind, if there are any.
        scheme: the label scheme. The background, which may be painted too, gets no outline.
        place: the slice.
        names: of the volume's slices.
    """
    layout = view(volume, place.axis, place.index)
    plane = layout.of(scaled)
    longest = max(length * count for length, count in zip(volume.spacing, volume.shape, strict=True))
    width, height = (
        volume.spacing[axis] * volume.shape[axis] * PICTURE_PIXELS / longest for axis in (layout.across, layout.down)
    )
    text = names.text([[place.index] if axis == place.axis else [] for axis in range(3)])
    shown = Shown(file_of(composite(plane)), f"Slice of {volume.name}, {text}", text, width, height)
    planes = {kind: layout.of(array) for kind, array in labels.items() if array is not None}
    _, rows, columns = plane.shape
    return OutlinedSlice(shown, rows, columns, outlines(planes, scheme.foreground, colours(scheme)))


def _prediction(
    store: AnnotationStore, image_id: str, image: Geometry, scheme: LabelScheme
) -> NDArray[np.uint8] | None:
    if PREDICTION not in store.get_labels_by_image_id(image_id):
        return None
    return stored_prediction(store, image_id, image, scheme)


def _facts(info: AnnotationInfo, image: Geometry) -> list[str]:
    facts = [
        f"{' × '.join(map(str, image.shape))} voxels of {' × '.join(f'{side:.3g}' for side in image.spacing)} mm",
        f"{image.channels} channel{'s' if image.channels > 1 else ''}",
    ]
    known = info.get("statistics")
    if known:
        count = sum(map(len, known["annotated_slices"]))
        facts.append(f"{count} annotated slice{'s' if count != 1 else ''}, {known['labelled_percent']:.2f} % labelled")
    else:
        facts.append("not annotated")
    return facts


def _axes(
    store: AnnotationStore,
    image_id: str,
    image: Geometry,
    suggested: Sequence[Suggestion],
    split: SliceSplit | None,
    names: SliceNames,
) -> list[Axis]:
    known = store.current(image_id).get("statistics")
    annotated = known["annotated_slices"] if known else [[], [], []]
    held = plane_flags(image.shape, split.validation.get(image_id, [])) if split else [np.zeros(0, bool)] * 3
    blocks = block_flags(image.shape, split.blocks.get(image_id, [])) if split else held
    following = [sorted(one.place.index for one in suggested if one.place.axis == axis) for axis in range(3)]
    uncertainty = _uncertainty(store, image_id, image)
    shown = [names.by_axis(slices) for slices in (annotated, following)]
    axes = []
    for axis, name in enumerate(names.axes):
        texts = [f"annotated: {shown[0][name]}", *([f"next: {shown[1][name]}"] if following[axis] else [])]
        held_out = [int(index) for index in np.flatnonzero(held[axis] | blocks[axis])]
        axes.append(
            Axis(
                name,
                image.shape[axis],
                annotated[axis],
                held_out,
                following[axis],
                uncertainty[axis],
                "; ".join(texts),
            )
        )
    return axes


def _uncertainty(store: AnnotationStore, image_id: str, image: Geometry) -> list[list[float]]:
    """Return the mean uncertainty, 0 … 1, of each slice across each axis; nothing if it isn't known."""
    if UNCERTAINTY not in store.get_labels_by_image_id(image_id):
        return [[], [], []]
    try:
        entropy = onto_grid(read_label_map(store.get_label_uri(image_id, UNCERTAINTY)), image)
    except (InputError, OSError):
        # It is only a hint, and the next prediction replaces it.
        return [[], [], []]
    others = ((1, 2), (0, 2), (0, 1))
    return [(entropy.mean(axis=axes) / 255).tolist() for axes in others]


def _describe_prediction(store: AnnotationStore, image_id: str) -> str:
    info = store.prediction_info(image_id)
    time, model = info.get("time"), info.get("model")
    if not time:
        return ""
    score = (
        f", whose {model['metric']} was {model['score']:.3f}" if model and {"metric", "score"} <= model.keys() else ""
    )
    return f"Predicted {time_text(time)} by the model of epoch {model['epoch'] if model else 'unknown'}{score}."


def _versions(store: AnnotationStore, image_id: str) -> list[Version]:
    """Return the versions of an image's annotation, the newest first."""
    current = store.current(image_id).get("version")
    versions, before = [], None
    for number, info in store.versions(image_id).items():
        versions.append(
            Version(
                number,
                time_text(info["time"]) if info.get("time") else "at an unknown time",
                info.get("client_id") or "nobody named",
                _change(info, before),
                number == current,
            )
        )
        before = info
    return versions[::-1]


def _change(info: AnnotationInfo, before: AnnotationInfo | None) -> str:
    """Say in which annotated slices a version differs from the one before."""
    if restored := info.get("restored_version"):
        return f"version {restored} again"
    known, earlier = info.get("statistics"), before.get("statistics") if before else None
    if not known:
        return "details are unknown"
    old = earlier["annotated_slices"] if earlier else [[], [], []]
    names = SliceNames.from_json(info["slice_names"]) if "slice_names" in info else SliceNames()
    new = known["annotated_slices"]
    added = [[index for index in now if index not in then] for now, then in zip(new, old, strict=True)]
    gone = [[index for index in then if index not in now] for now, then in zip(new, old, strict=True)]
    voxels = known["labelled_voxels"] - (earlier["labelled_voxels"] if earlier else 0)
    parts = [f"new slices: {names.text(added)}"] if any(added) else []
    parts += [f"without slices: {names.text(gone)}"] if any(gone) else []
    return "; ".join([*parts, f"{voxels:+,} labelled voxels"])
