"""Datasets of nnU-Net v2: their folders, and the rules of ``dataset.json``.

===============================  ===========================================================
``dataset.json``                 names of channels and labels, number of cases, file ending
``imagesTr/CASE_0000.nii.gz``    channel 0 of a case; channel 1 is ``CASE_0001.nii.gz``, …
``labelsTr/CASE.nii.gz``         its label: 0 background, 1 … K classes, K+1 ignored voxels
===============================  ===========================================================
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.image_files import ImageFiles, images_among
from lib.server.slicer.segments import check_class_names

ENDINGS = (".nii.gz", ".nrrd", ".mha")
"""File endings that nnU-Net and this software both read."""

DESCRIPTION, IMAGES, LABELS = "dataset.json", "imagesTr", "labelsTr"
BACKGROUND, IGNORE = "background", "ignore"


class Description(BaseModel):
    """What this software needs of ``dataset.json``; the names are nnU-Net's."""

    channel_names: dict[str, str] = Field(min_length=1)
    labels: dict[str, int | list[int]]
    numTraining: int = Field(ge=1)
    file_ending: str
    dataset: object = None


@dataclass(frozen=True)
class Case:
    """A case.

    Attributes:
        files: its image, by channel.
        label: the file of its label.
    """

    files: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Dataset:
    """A dataset that this software can use.

    Attributes:
        scheme: its classes in the order of their values, and the name of the background.
        ignore: value of the voxels that nobody labelled, if there are any.
        cases: by name.
    """

    scheme: LabelScheme
    ignore: int | None
    cases: dict[str, Case]


def describe(
    channels: int, scheme: LabelScheme, is_partly_labelled: bool, cases: int, ending: str
) -> dict[str, object]:
    """Return the content of ``dataset.json``.

    Raises:
        InputError: a class has a name that means something else to nnU-Net.
    """
    for name in scheme.foreground:
        if name in (BACKGROUND, IGNORE):
            raise InputError(f"labels: the class {name!r} has a name that means something else to nnU-Net; rename it")
    # nnU-Net wants the labels without gaps, and the ignored voxels last.
    names = [BACKGROUND, *scheme.foreground, *([IGNORE] if is_partly_labelled else [])]
    return {
        "channel_names": {str(number): f"channel_{number}" for number in range(channels)},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": cases,
        "file_ending": ending,
    }


def read_dataset(folder: Path, background: str, ignore: int | None = None) -> Dataset:
    """Read a dataset's description and find its files.

    Args:
        folder: the dataset.
        background: what this software shall call the background.
        ignore: value of the voxels that nobody labelled, where the description has no label ``ignore``.

    Raises:
        InputError: a file is missing, the description breaks a rule of nnU-Net, or has what this software can't use:
            regions, another file ending, names of classes that 3D Slicer reserves.
    """
    path = folder / DESCRIPTION
    try:
        description = Description.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; give a dataset of nnU-Net v2 (nnUNet_raw/DatasetXXX_NAME)"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: {place or 'not JSON'}: {first['msg']}; expected a description of nnU-Net v2"
        ) from error
    if description.file_ending not in ENDINGS:
        raise InputError(
            f"{path}: file_ending {description.file_ending!r}; expected one of {', '.join(ENDINGS)}, convert the files"
        )
    if description.dataset is not None:
        raise InputError(f"{path}: lists its files in 'dataset'; put them into {IMAGES}/ and {LABELS}/ instead")
    names, found = _names(path, description)
    if found is not None and ignore not in (None, found):
        raise InputError(f"--ignore {ignore}: {path} says that value {found} is ignored; leave --ignore away")
    if ignore is not None and found is None and ignore <= len(names):
        raise InputError(f"--ignore {ignore}: this value is {[BACKGROUND, *names][ignore]!r} in {path}")
    cases = _cases(folder, description)
    return Dataset(_scheme(path, names, background), ignore if found is None else found, cases)


def _names(path: Path, description: Description) -> tuple[list[str], int | None]:
    """Return the names of the classes 1 … K, and the value of ignored voxels."""
    values: dict[str, int] = {}
    for name, value in description.labels.items():
        if isinstance(value, list):
            raise InputError(f"{path}: the label {name!r} is a region ({value}); expected one number for each label")
        values[name] = value
    if values.get(BACKGROUND) != 0:
        raise InputError(f"{path}: labels: {BACKGROUND!r} is {values.get(BACKGROUND)}; nnU-Net expects 0")
    ordered = sorted(values, key=values.__getitem__)
    if [values[name] for name in ordered] != list(range(len(ordered))) or (IGNORE in values and ordered[-1] != IGNORE):
        raise InputError(
            f"{path}: labels {values}; nnU-Net expects the numbers 0, 1, 2, … without gaps, and {IGNORE!r} last"
        )
    return [name for name in ordered if name not in (BACKGROUND, IGNORE)], values.get(IGNORE)


def _scheme(path: Path, names: Sequence[str], background: str) -> LabelScheme:
    try:
        scheme = LabelScheme.parse(",".join(names), background)
        if scheme.foreground != tuple(names):
            raise InputError(f"labels: {', '.join(map(repr, names))}: a name has a comma or a space at its end")
        check_class_names(scheme)
    except InputError as error:
        raise InputError(f"{path}: {error}; rename the label there, or the background by --background") from error
    return scheme


def _cases(folder: Path, description: Description) -> dict[str, Case]:
    ending, channels = description.file_ending, len(description.channel_names)
    for place in (folder / IMAGES, folder / LABELS):
        if not place.is_dir():
            raise InputError(f"{place}: no such folder; give a dataset of nnU-Net v2")
    files = [name for name in os.listdir(folder / IMAGES) if name.endswith(ending)]
    cases = {}
    for name, image in images_among(folder / IMAGES, files).items():
        _check_channels(name, image, ending, channels)
        label = folder / LABELS / f"{name}{ending}"
        if not label.is_file():
            raise InputError(f"{label}: no such file; each case in {IMAGES}/ needs a label")
        cases[name] = Case(image.files, label)
    if len(cases) != description.numTraining:
        raise InputError(
            f"{folder / IMAGES}: {len(cases)} cases, but {DESCRIPTION} says numTraining {description.numTraining}; "
            "add what is missing, or correct the number"
        )
    return cases


def _check_channels(name: str, image: ImageFiles, ending: str, channels: int) -> None:
    if image.fault:
        raise InputError(image.fault)
    expected = [f"{name}_{number:04d}{ending}" for number in range(channels)]
    if [file.name for file in image.files] != expected:
        raise InputError(
            f"{image.path}: the case {name!r} has {', '.join(file.name for file in image.files)}; {DESCRIPTION} has "
            f"{channels} channel_names, so expected {', '.join(expected)}"
        )
