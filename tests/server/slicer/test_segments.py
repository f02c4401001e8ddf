import pytest

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.conf import Conf
from lib.server.slicer.segments import all_segments


def test_the_servers_segments_come_first_so_that_paint_lies_on_top() -> None:
    assert all_segments(LabelScheme(("inside", "tubule"), "outside")) == (
        "inside (predicted)",
        "tubule (predicted)",
        "annotate here",
        "inside",
        "tubule",
        "outside",
    )


@pytest.mark.parametrize(
    ("labels", "background", "named"),
    [
        ("inside", "background", "'background' is reserved"),
        ("Background", "outside", "'Background' is reserved"),
        ("foreground_scribbles", "outside", "reserved"),
        ("inside (predicted)", "outside", "reserved"),
        ("annotate here", "outside", "reserved"),
    ],
)
def test_classes_that_slicer_or_the_server_uses_are_refused(labels: str, background: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Conf.parse({"labels": labels, "background": background}, "studies")
