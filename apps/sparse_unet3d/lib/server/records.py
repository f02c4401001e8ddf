"""What the server stores about images and labels, as JSON: in the index and in ``labels/TAG/ID.json``.

No key is required, because files that earlier versions of this software wrote lack some of them.
"""

from typing_extensions import TypedDict

from lib.core.annotation.statistics import AnnotationStatistics


class Offer(TypedDict):
    """When a strategy last offered an image, and to whom.

    Attributes:
        ts: seconds since 1970.
        client_id: of the client.
    """

    ts: int
    client_id: str | None


class ImageInfo(TypedDict, total=False):
    """What the server stores about an image, in the index only.

    Attributes:
        ts: when it was first seen, in seconds since 1970.
        name: name of the image's file.
        versions: the highest number of a version of its annotation.
        strategy: the latest offer of each strategy, by name.
    """

    ts: int
    name: str
    versions: int
    strategy: dict[str, Offer]


class SliceNamesRecord(TypedDict):
    """``SliceNames`` as JSON."""

    axes: list[str]
    reversed_length: int | None


class LabelInfo(TypedDict, total=False):
    """What the server stores about any label.

    Attributes:
        ts: time of writing, in seconds since 1970.
        name: name of the label's file.
        crc32: CRC-32 of the label's file.
        sha256: SHA-256 of the label's file, in hexadecimal digits.
        time: time of the submission or prediction, UTC, ISO 8601.
        label_names: the voxel value of each class.
    """

    ts: int
    name: str
    crc32: int
    sha256: str
    time: str
    label_names: dict[str, int]


class PreviousVersion(TypedDict):
    """The version that a new version replaced.

    Attributes:
        version: its number.
        time: as in ``LabelInfo``.
        client_id: who submitted it.
        restored_version: the version that it restored, if any.
        gone_slices: for each axis, its annotated slices that the new version lacks.
    """

    version: int
    time: str | None
    client_id: str | None
    restored_version: int | None
    gone_slices: list[list[int]]


class SlicerParameters(TypedDict):
    """Where 3D Slicer looks for the names of a label's values."""

    label_names: dict[str, int]


class AnnotationInfo(LabelInfo, total=False):
    """What the server stores about a version of an annotation.

    Attributes:
        version: its number, from 1.
        client_id: who submitted it.
        restored_version: the version that it restored, if any.
        statistics: counts of its labelled voxels, and its annotated slices.
        slice_names: what to call its slices.
        earlier: the version that it replaced.
        warnings: what the annotator was told.
        params: names of the values, for 3D Slicer; tag ``original`` only.
    """

    version: int
    client_id: str | None
    restored_version: int | None
    statistics: AnnotationStatistics
    slice_names: SliceNamesRecord
    earlier: PreviousVersion | None
    warnings: list[str]
    params: SlicerParameters


class ModelFacts(TypedDict, total=False):
    """The model that made a prediction, and how it was used; earlier versions of this software stored fewer keys.

    Attributes:
        run: start of the training that made it.
        epoch: the epoch of that training after which it was saved.
        metric: name of the score.
        score: 0 … 1.
        statistics: which statistics batch normalisation used.
    """

    run: str
    epoch: int
    metric: str
    score: float
    statistics: str


class Scores(TypedDict):
    """Agreement of a prediction with the annotation; None where the class occurs in neither."""

    iou: dict[str, float | None]
    mean_iou: float | None


class ImageScores(TypedDict, total=False):
    """Scores of one prediction.

    Attributes:
        iou: by class, over all annotated voxels.
        mean_iou: its mean.
        by_published_model: whether the published model made the prediction.
        learnt: scores on the voxels that the model was trained on.
        held_out: scores on the held-out voxels.
    """

    iou: dict[str, float | None]
    mean_iou: float | None
    by_published_model: bool
    learnt: Scores
    held_out: Scores


class PredictionInfo(LabelInfo, total=False):
    """What the server stores about a prediction.

    Attributes:
        model: the model that made it.
        image: checksum of the image.
        uncertainty: mean over the predicted classes, 0 … 1.
        seconds: how long the prediction took.
    """

    model: ModelFacts
    image: int
    uncertainty: float
    seconds: float
