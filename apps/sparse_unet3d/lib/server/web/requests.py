"""Requests as types: everything that a client sends is read once, here, and has limits.

Numbers are finite, texts are printable and of limited length, and lists are short. Nothing else of a request reaches
the tasks or the datastore.
"""

import unicodedata
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictInt,
    TypeAdapter,
    ValidationError,
)

from lib.core.errors import InputError

LONGEST_TEXT = 255
"""Characters of a name. No file system allows longer file names."""

MOST_SEGMENTS = 1000
"""Segments that a submission may describe."""

MOST_ITEMS = 100
"""Items of an option that is a list."""

LARGEST_NUMBER = 2**53
"""Every whole number up to this one is exact in JSON."""

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that no name needs: control characters, lone surrogates, line and paragraph separators."""


def _printable(text: str) -> str:
    for character in text:
        if unicodedata.category(character) in UNPRINTABLE:
            raise ValueError(f"has the character U+{ord(character):04X}, which can't be shown; remove it")
    return text


Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_printable)]
"""A short text of one line; it may be empty."""

Name = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT), AfterValidator(_printable)]
"""The name of an image, a model or a tag."""

WholeNumber = Annotated[StrictInt, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]


def _scalar(value: object) -> bool | int | float | str | None:
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return _printable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER:
        return value
    raise ValueError(f"give a number, or a text of at most {LONGEST_TEXT} characters")


def _option(value: object) -> object:
    if not isinstance(value, list):
        return _scalar(value)
    if len(value) > MOST_ITEMS:
        raise ValueError(f"give at most {MOST_ITEMS} values")
    return [_scalar(item) for item in value]


Option = Annotated[Any, PlainValidator(_option, json_schema_input_type=bool | int | float | str | None)]
"""The value of an option in Slicer's tables. Of a list, the first item counts. The task checks its range."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    client_id: Text | None = None

    def given(self) -> dict[str, Any]:
        """Return what the client sent, without what it left out."""
        return self.model_dump(exclude_none=True)


class SampleRequest(_Request):
    """Body of *Next Sample*."""


class ScoringRequest(_Request):
    """Body of a scoring request."""


class TrainRequest(_Request):
    """Body of *Train*: the options of the trainer in ``/info``."""

    model: Text | None = None
    max_epochs: Option = None
    max_minutes: Option = None
    start: Option = None
    device: Option = None
    gpus: Option = None


class BatchRequest(_Request):
    """Body of a batch request."""

    device: Option = None
    gpus: Option = None
    multi_gpu: Option = None
    max_workers: Option = None
    max_batch_size: Annotated[int, Field(ge=0, le=LARGEST_NUMBER)] | None = None
    logging: Option = None


class _Params(_Request):
    # Newer plugins may send more; an annotator couldn't do anything about a refusal.
    model_config = ConfigDict(extra="ignore")


class InferParams(_Params):
    """The field ``params`` of *Run* and of a click."""

    result_extension: Text | None = None
    label: Text | None = None
    slice: Option = None
    slices: Option = None


class SegmentInfo(BaseModel):
    """One exported segment of Slicer's list."""

    model_config = ConfigDict(extra="ignore")

    name: Text
    idx: WholeNumber | None = None


class SubmitParams(_Params):
    """The field ``params`` of *Submit Label*."""

    label_info: Annotated[list[SegmentInfo], Field(max_length=MOST_SEGMENTS)] | None = None


class ImageParams(_Params):
    """The field ``params`` of an uploaded image."""


Params = TypeVar("Params", bound=_Params)


def parse_name(text: str) -> str:
    """Read a name.

    Raises:
        InputError: it is empty, too long or not printable.
    """
    try:
        return TypeAdapter[str](Name).validate_python(text)
    except ValidationError as error:
        raise InputError(f"name: {describe(error.errors(include_url=False, include_input=False))}") from error


def parse_params(kind: type[Params], text: str) -> Params:
    """Read the form field ``params``.

    Args:
        kind: what it describes.
        text: JSON; empty for nothing.

    Raises:
        InputError: not JSON, or a value of another type or beyond its limits.
    """
    try:
        return kind.model_validate_json(text or "{}")
    except ValidationError as error:
        raise InputError(f"params: {describe(error.errors(include_url=False, include_input=False))}") from error


def describe(errors: Any, most: int = 3) -> str:
    """Say what is wrong in a request, without repeating what was sent: that may be long or unprintable.

    Args:
        errors: as pydantic lists them.
        most: how many to name.
    """
    said = []
    for error in errors:
        place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
        message = str(error["msg"]).removeprefix("Value error, ")
        said.append(f"{place[:LONGEST_TEXT]}: {message}" if place else message)
    said = list(dict.fromkeys(said))
    text = "; ".join([*said[:most], *(["…"] if len(said) > most else [])])
    return text.encode("ascii", "backslashreplace").decode("ascii")
