import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.labels import IGNORED, LabelScheme


def test_values_and_names_of_the_default_scheme() -> None:
    scheme = LabelScheme.parse("inside,tubule", "outside")
    assert scheme.classes == ("inside", "tubule", "outside")
    assert scheme.background_value == 3
    assert scheme.segments == (
        "inside (predicted)",
        "tubule (predicted)",
        "annotate here",
        "inside",
        "tubule",
        "outside",
    )


def test_targets_are_background_zero_and_unlabelled_ignored() -> None:
    scheme = LabelScheme.parse("inside,tubule", "outside")
    assert scheme.targets(np.array([0, 1, 2, 3])).tolist() == [IGNORED, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "background", "named"),
    [
        ("inside,inside", "outside", "'inside' is given twice"),
        ("inside,outside", "outside", "'outside' is given twice"),
        ("inside", "background", "'background' is reserved"),
        ("Background", "outside", "'Background' is reserved"),
        ("foreground_scribbles", "outside", "reserved"),
        ("inside (predicted)", "outside", "reserved"),
        ("annotate here", "outside", "reserved"),
        ("inside,", "outside", "empty class name"),
        ("inside", " ", "empty class name"),
    ],
)
def test_bad_names_are_refused_by_name(labels: str, background: str, named: str) -> None:
    with pytest.raises(InputError, match=named.replace("(", r"\(").replace(")", r"\)")):
        LabelScheme.parse(labels, background)
