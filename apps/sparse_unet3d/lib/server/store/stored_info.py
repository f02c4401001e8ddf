"""Reads what the server stored about images and labels, and leaves out what can't be meant.

Earlier versions of this software stored what clients sent, and people edit files. A value of the wrong type would make
requests fail long after it was stored, so each value is checked here, and nowhere else.
"""

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from lib.core.annotation.statistics import AnnotationStatistics
from lib.server.records import AnnotationInfo, ImageInfo, PredictionInfo, PreviousVersion, SliceNamesRecord

logger = logging.getLogger(__name__)

AXES = 3

MOST_VERSIONS = 10**9
"""No image has as many versions."""

SHOWN = 60
"""Characters of a value that the log shows."""

_HALF_OF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a pair that stands for one character. JSON can hold it alone, UTF-8 can't."""


def _date(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _for_axes(statistics: AnnotationStatistics) -> AnnotationStatistics:
    for key in ("annotated_slices", "whole_slices", "mostly_unpainted"):
        if key in statistics and len(statistics[key]) != AXES:
            raise ValueError(f"{key}: {len(statistics[key])} axes")
    return statistics


def _three(names: SliceNamesRecord) -> SliceNamesRecord:
    if len(names["axes"]) != AXES:
        raise ValueError(f"{len(names['axes'])} axes")
    return names


def _previous(earlier: PreviousVersion) -> PreviousVersion:
    if len(earlier["gone_slices"]) != AXES:
        raise ValueError(f"{len(earlier['gone_slices'])} axes")
    _date(earlier["time"] or "2000-01-01")
    return earlier


_NARROWER: dict[str, Any] = {
    "version": Annotated[int, Field(ge=0, lt=MOST_VERSIONS)],
    "versions": Annotated[int, Field(ge=0, lt=MOST_VERSIONS)],
    "time": Annotated[str, AfterValidator(_date)],
    "label_names": Annotated[dict[str, Annotated[int, Field(ge=0, lt=256)]], Field(min_length=1)],
    "uncertainty": Annotated[float, Field(ge=0, le=1)],
    "statistics": Annotated[AnnotationStatistics, AfterValidator(_for_axes)],
    "slice_names": Annotated[SliceNamesRecord, AfterValidator(_three)],
    "earlier": Annotated[PreviousVersion, AfterValidator(_previous)] | None,
}
"""What the type of a value doesn't say."""


def _adapters(*records: type) -> dict[str, TypeAdapter[Any]]:
    types = {key: kind for record in records for key, kind in get_type_hints(record).items()}
    return {key: TypeAdapter(_NARROWER.get(key, kind)) for key, kind in types.items()}


_OF_IMAGES, _OF_LABELS = _adapters(ImageInfo), _adapters(AnnotationInfo, PredictionInfo)


def image_info(known: object, where: str) -> dict[str, Any]:
    """Return what is known of an image, without values that can't be meant; the log names them.

    Args:
        known: as read; see ``ImageInfo``. Values under other keys, which other software may have written, stay.
        where: what to call the image.
    """
    return _checked(known, _OF_IMAGES, where)


def label_info(known: object, where: str) -> dict[str, Any]:
    """Return what is known of a label; see ``image_info``, ``AnnotationInfo`` and ``PredictionInfo``."""
    return _checked(known, _OF_LABELS, where)


def _checked(known: object, types: Mapping[str, TypeAdapter[Any]], where: str) -> dict[str, Any]:
    if not isinstance(known, dict):
        logger.error("%s: what is stored about it is damaged and is not used", where)
        return {}
    checked = {}
    for key, value in known.items():
        try:
            if key in types:
                types[key].validate_python(value, strict=True)
            checked[key] = value
        except ValidationError:
            logger.error("%s: %s is %s, which can't be meant; it is left out", where, key, _shown(value))
    return checked


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def read_label_info(path: Path) -> dict[str, Any]:
    """Read the label info from a file; return an empty one if the file is missing or damaged."""
    try:
        return label_info(parse_json(path.read_bytes()), str(path))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return label_info(None, str(path))


def parse_json(content: bytes) -> Any:
    """Read JSON, in UTF-8, with what the server can send as JSON again.

    Numbers that JSON can't hold (NaN, infinite ones) become None, and lone halves of surrogate pairs become ``?``.

    Raises:
        ValueError: not JSON.
        RecursionError: too deep.
    """
    text = content.decode()
    value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    if _HALF_OF_A_PAIR.search(text):
        value = json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
    return value


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
