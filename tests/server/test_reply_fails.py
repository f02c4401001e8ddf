"""A submission that is stored stays accepted if the reply can't be made."""

from lib.server.store.datastore import SubmittedLabel
from main import SparseUNet3D


def test_the_annotator_is_told_that_it_is_stored() -> None:
    # An app that was never initialised can describe nothing.
    app = object.__new__(SparseUNet3D)
    reply = app.on_save_label("a", SubmittedLabel("a", {"version": 3}))
    assert reply["message"] == "Version 3 of 'a' is stored."
    assert reply["version"] == 3
    assert "its log says why" in str(reply["warnings"])
