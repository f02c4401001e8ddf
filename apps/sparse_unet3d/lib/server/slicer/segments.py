"""The segments that Slicer shows: the model's, the marks of the slices to annotate next, and the painted classes."""

from lib.core.errors import InputError
from lib.core.labels import LabelScheme

PREDICTED = " (predicted)"
"""Ending of the names of the model's segments. It keeps Slicer from replacing painted segments by them."""

ANNOTATE_HERE = "annotate here"
"""Name of the segment that marks the slices to annotate next."""

RESERVED = ("background", "foreground_scribbles", "background_scribbles", ANNOTATE_HERE)
"""Names that Slicer's plugin drops on submit, or that the server uses itself."""


def check_class_names(scheme: LabelScheme) -> None:
    """Refuse class names that Slicer's plugin drops on submit, or that the server gives to its own segments.

    Raises:
        InputError: naming the class.
    """
    for name in scheme.classes:
        if name.lower() in RESERVED or name.endswith(PREDICTED):
            raise InputError(
                f"labels: the class name {name!r} is reserved (3D Slicer or this software uses it itself); "
                f"choose another, e.g. 'outside' for the background class"
            )


def predicted_segments(scheme: LabelScheme) -> tuple[str, ...]:
    """Return the names of the model's segments; the prediction value of the i-th is i + 1."""
    return tuple(name + PREDICTED for name in scheme.foreground)


def server_segments(scheme: LabelScheme) -> tuple[str, ...]:
    """Return the names of the segments that the server fills. Their voxels are never an annotation."""
    return (*predicted_segments(scheme), ANNOTATE_HERE)


def all_segments(scheme: LabelScheme) -> tuple[str, ...]:
    """Return all names in Slicer's order of creation: the server's segments first, so that paint lies on top."""
    return (*server_segments(scheme), *scheme.classes)
