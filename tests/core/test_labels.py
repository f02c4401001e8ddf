import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.labels import IGNORED, LabelScheme


def test_values_and_names_of_the_default_scheme() -> None:
    scheme = LabelScheme.parse("inside,tubule", "outside")
    assert scheme.classes == ("inside", "tubule", "outside")
    assert scheme.background_value == 3


def test_targets_are_background_zero_and_unlabelled_ignored() -> None:
    scheme = LabelScheme.parse("inside,tubule", "outside")
    assert scheme.targets(np.array([0, 1, 2, 3])).tolist() == [IGNORED, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "background", "named"),
    [
        ("inside,inside", "outside", "'inside' is given twice"),
        ("inside,outside", "outside", "'outside' is given twice"),
        ("inside,", "outside", "empty class name"),
        ("inside", " ", "empty class name"),
        ("a;b", "outside", "--conf labels 'a;b': .*';' in a place"),
        ("a b|c", "outside", "separated by commas, e.g. --conf labels inside,tubule"),
        ('{"a": 1, "b": 2}', "outside", "'{' in a place"),
        ("'a,b'", "outside", 'the class name "\'a"'),
        ('a,"b"', "outside", "'\"' in a place"),
        ("“a”", "outside", "'“' in a place"),
        ("[a,b]", "outside", "'\\[' in a place"),
        ("a=1,b=2", "outside", "'=' in a place"),
        ("a，b", "outside", "'，' in a place"),
        ("a\tb", "outside", "U\\+0009 in a place"),
        ("a,b\n", "outside", "U\\+000A in a place"),
        ("a,\u200bb", "outside", "ZERO WIDTH SPACE in a place"),
        ("a", "b,c", "--conf background 'b,c': .*one plain name, e.g. --conf background outside"),
        ("a", "'b'", "--conf background"),
        ("a", "b\x7f", "--conf background"),
    ],
)
def test_bad_names_are_refused_by_name(labels: str, background: str, named: str) -> None:
    with pytest.raises(InputError, match=named.replace("(", r"\(").replace(")", r"\)")):
        LabelScheme.parse(labels, background)


@pytest.mark.parametrize("text", ["(a,b)", "a,b)", "(a)"])
def test_brackets_around_a_list_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="separated by commas"):
        LabelScheme.parse(text, "outside")


def test_names_in_any_language_may_contain_spaces_and_punctuation() -> None:
    names = (
        "grey/white matter",
        "T1-w.x",
        "Peyer's patch",
        "tumor (core)",
        "CD4+",
        "Zürich β",
        "می\u200cخواهم",
        "细胞 1",
    )
    assert LabelScheme.parse(", ".join(names), "rest & more").foreground == names
