"""Annotations and predictions as DICOM segmentations (SEG): a file for each version, in the study of its image."""

import hashlib
import json
import logging
import re
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast

import highdicom
import numpy as np
import pydicom
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

from lib.core.annotation.statistics import annotation_statistics
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.dicom import DicomSource
from lib.server.records import AnnotationInfo, PredictionInfo
from lib.server.slicer.slice_names import SliceNames
from lib.server.store.stored_info import label_info, parse_json

# It logs each group of tags that it copies, and warnings of both libraries quote names of patients.
logging.getLogger("highdicom").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"(highdicom|pydicom)\b")

MAKER = "Sparse U-Net 3D"
"""Manufacturer of the segmentations, and the beginning of their series' descriptions."""

SOFTWARE_VERSION = "0.1.0"
"""Version of this software."""

CREATOR = "SPARSE_UNET3D"
GROUP, INFO = 0x0099, 0x01
"""Where a segmentation has the label info: a private element, by its group and its number."""

NOT_KEPT = ("ts", "name", "crc32", "sha256", "params", "statistics")
"""Keys of the label info that are about the files in a folder, or follow from the voxels."""

SERIES_NUMBER = 7000
"""Number of the series of predictions; those of versions follow. Those of the images are usually small."""

TISSUE = Code("85756007", "SCT", "Tissue")
"""What 3D Slicer says, too, of segments of any name."""

ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

LONG_AGO = "2000-01-01T00:00:00+00:00"
"""Time of versions of which it isn't known."""

LONGEST = 64
"""Characters of a text in DICOM."""

REQUIRED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""Tags that highdicom reads, and that an archive's files may lack; then they are empty."""


@dataclass(frozen=True, eq=False)
class Restored:
    """A version that was read from a segmentation.

    Attributes:
        version: its number.
        uid: unique id of the segmentation.
        annotation: (X, Y, Z) on the image's grid, 0 unlabelled, values of ``label_names`` in ``info``.
        info: its label info.
    """

    version: int
    uid: str
    annotation: NDArray[np.uint8]
    info: AnnotationInfo


def derived_uid(*parts: object) -> str:
    """Return the unique id that always follows from these parts."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(parts)).int}"


def segmentation_uid(series: str, version: int, annotation: NDArray[np.uint8], names: Mapping[str, int]) -> str:
    """Return the unique id of the segmentation of a version; equal versions have the same one.

    Args:
        series: unique id of the image's series.
        version: its number.
        annotation: (X, Y, Z).
        names: the value of each class.
    """
    digest = hashlib.sha256(annotation.astype(np.uint8).tobytes()).hexdigest()
    return derived_uid(series, version, digest, annotation.shape, sorted(names.items()))


def make_segmentation(
    source: DicomSource, annotation: NDArray[np.uint8], info: AnnotationInfo
) -> highdicom.seg.Segmentation:
    """Return a version as a segmentation, in which a class without voxels has a segment too.

    Args:
        source: the image.
        annotation: (X, Y, Z) on its grid, 0 unlabelled, values of ``label_names``.
        info: its label info.

    Raises:
        InputError: the image's files say too little for a segmentation to refer to them.
    """
    slices = _headers(source)
    version, names, client = info["version"], info["label_names"], info.get("client_id") or ""
    made = _segmentation(
        source,
        slices,
        annotation,
        segmentation_uid(str(slices[0].SeriesInstanceUID), version, annotation, names),
        segment_descriptions=_segments(names),
        series_number=SERIES_NUMBER + version,
        content_label=f"VERSION_{version}"[:16],
        content_creator_name=_name(client),
        series_description=_text(f"{MAKER}, version {version}" + (f", {client}" if client else "")),
    )
    _set_time(made, info.get("time") or LONG_AGO)
    kept = {key: value for key, value in info.items() if key not in NOT_KEPT}
    made.private_block(GROUP, CREATOR, create=True).add_new(INFO, "UT", json.dumps(kept))
    return made


def make_prediction(source: DicomSource, labels: NDArray[np.uint8], info: PredictionInfo) -> highdicom.seg.Segmentation:
    """Return a prediction as a segmentation, which says that it was made automatically, and by which model.

    It is nobody's paint: ``image_of`` is None, so that it never comes back as a version.

    Args:
        source: the image.
        labels: (X, Y, Z) on its grid, 0 background, values of ``label_names``.
        info: its label info.

    Raises:
        InputError: the image's files say too little for a segmentation to refer to them.
    """
    slices, names, model = _headers(source), info["label_names"], info.get("model") or {}
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER,
        family=ARTIFICIAL_INTELLIGENCE,
        version=_text(f"run {model.get('run', 'unknown')}, epoch {model.get('epoch', 'unknown')}"),
    )
    made = _segmentation(
        source,
        slices,
        labels,
        derived_uid("prediction", segmentation_uid(str(slices[0].SeriesInstanceUID), 0, labels, names)),
        segment_descriptions=_segments(names, algorithm),
        series_number=SERIES_NUMBER,
        content_label="PREDICTION",
        content_creator_name=None,
        series_description=f"Prediction by {MAKER}",
    )
    _set_time(made, info.get("time") or LONG_AGO)
    return made


def _segmentation(
    source: DicomSource, slices: Sequence[Dataset], voxels: NDArray[np.uint8], uid: str, **described: Any
) -> highdicom.seg.Segmentation:
    """Return a segmentation of voxels (X, Y, Z), all of whose unique ids follow from ``uid``."""
    try:
        made = highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=np.ascontiguousarray(voxels.T),
            segmentation_type=SegmentationTypeValues.BINARY,
            series_instance_uid=derived_uid("series", uid),
            sop_instance_uid=uid,
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=SOFTWARE_VERSION,
            device_serial_number="0",
            content_description=described["series_description"],
            **described,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"{source.path}: no segmentation can refer to this series ({type(error).__name__}), so it is in the "
            "project folder only"
        ) from error
    made.SpecificCharacterSet = "ISO_IR 192"
    for sequence in (made.DimensionOrganizationSequence, made.DimensionIndexSequence):
        for item in sequence:
            item.DimensionOrganizationUID = derived_uid("dimensions", uid)
    return made


def _set_time(made: Dataset, time: str) -> None:
    """Say when a segmentation was made, given by ISO 8601."""
    made_at = datetime.fromisoformat(time).astimezone(timezone.utc)
    made.ContentDate = made.SeriesDate = DA(f"{made_at:%Y%m%d}")
    made.ContentTime = made.SeriesTime = TM(f"{made_at:%H%M%S}")
    made.TimezoneOffsetFromUTC = "+0000"


def image_of(segmentation: Dataset) -> str | None:
    """Return the unique id of the series that a segmentation belongs to; None if this software hasn't made it."""
    try:
        segmentation.private_block(GROUP, CREATOR)
        return str(segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID)
    except (KeyError, AttributeError, IndexError, TypeError):
        return None


def read_segmentation(source: DicomSource, segmentation: Dataset) -> Restored:
    """Read a version from a segmentation that this software has made.

    Args:
        source: the image.
        segmentation: its ``image_of`` is the image.

    Raises:
        InputError: it is damaged, or belongs to other files.
    """
    uid = str(segmentation.get("SOPInstanceUID", ""))
    try:
        value = segmentation.private_block(GROUP, CREATOR)[INFO].value
        known = label_info(parse_json(value if isinstance(value, bytes) else str(value).encode()), uid)
        version, names = int(known["version"]), dict(known["label_names"])
        read = highdicom.seg.Segmentation.from_dataset(segmentation, copy=False)
        planes = read.get_pixels_by_source_instance(
            [str(one.SOPInstanceUID) for one in _headers(source)],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
            dtype=np.uint8,
        )
        annotation: NDArray[np.uint8] = np.ascontiguousarray(planes.T)
        *foreground, background = sorted(names, key=names.__getitem__)
        statistics = annotation_statistics(annotation, LabelScheme(tuple(foreground), background))
    except Exception as error:
        # What the libraries say of it may quote it.
        raise InputError(f"segmentation {uid}: can't be read ({type(error).__name__})") from None
    if version < 1 or annotation.shape != source.geometry.shape[:3]:
        raise InputError(f"segmentation {uid}: version {version} of shape {annotation.shape} doesn't fit {source.path}")
    info = {
        "time": LONG_AGO,
        "client_id": None,
        "restored_version": None,
        "slice_names": SliceNames.of(source.geometry).to_json(),
        "earlier": None,
        "warnings": [],
        **known,
        "statistics": statistics,
    }
    return Restored(version, uid, annotation, cast(AnnotationInfo, info))


def _headers(source: DicomSource) -> list[Dataset]:
    """Return the tags of the files of a series in the order of Z, with those that highdicom needs."""
    slices: list[Dataset] = [pydicom.dcmread(file, stop_before_pixels=True) for file in source.files]
    thickness = float(np.linalg.norm(source.geometry.affine[:3, 2]))
    for one in slices:
        for name in REQUIRED:
            if name not in one:
                setattr(one, name, None)
        if "FrameOfReferenceUID" not in one:
            one.FrameOfReferenceUID = derived_uid("frame of reference", str(one.SeriesInstanceUID))
        if one.get("SliceThickness") is None:
            one.SliceThickness = f"{thickness:.9g}"
    return slices


def _segments(
    names: Mapping[str, int], algorithm: highdicom.AlgorithmIdentificationSequence | None = None
) -> Sequence[SegmentDescription]:
    """Return what to say of each class, which a person painted or an algorithm found. No code fits any name."""
    types = SegmentAlgorithmTypeValues
    return [
        SegmentDescription(
            segment_number=value,
            segment_label=_text(name),
            segmented_property_category=TISSUE,
            segmented_property_type=TISSUE,
            algorithm_type=types.AUTOMATIC if algorithm else types.MANUAL,
            algorithm_identification=algorithm,
        )
        for name, value in sorted(names.items(), key=lambda item: item[1])
    ]


def _text(text: str) -> str:
    return re.sub(r"[\\\x00-\x1f\x7f]", " ", text)[:LONGEST].strip()


def _name(client: str) -> str | None:
    """Return a client's name as a person's, all of which is the family name; None without one."""
    name = re.sub(r"[\^=]", " ", _text(client))[: LONGEST - 1]
    return f"{name}^" if name else None
