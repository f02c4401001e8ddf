"""Which image is offered next."""

from pathlib import Path

import numpy as np

from lib.core.labels import LabelScheme
from lib.server.datastore import AnnotationStore
from lib.server.strategies import Sparse
from serving import paint, write_image, write_label


class Annotator:
    """Presses Next Sample; the server's endpoint notes what was offered to whom."""

    def __init__(self, store: AnnotationStore, client: str) -> None:
        self.store, self.client, self.clock = store, client, 1000

    def next(self) -> str:
        sample = Sparse()({"strategy": "sparse", "client_id": self.client}, self.store)
        assert sample is not None
        self.clock += 1
        noted = {"sparse": {"ts": self.clock, "client_id": self.client}}
        self.store.update_image_info(sample["id"], {"strategy": noted})
        return str(sample["id"])


def test_fewest_annotated_slices_first_also_of_annotated_images(studies: Path, tmp_path: Path) -> None:
    write_image(studies / "c.nii.gz")
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    annotator = Annotator(store, "me")
    assert [annotator.next() for _ in range(4)] == ["a", "b", "c", "a"]

    def annotate(image: str, slices: int) -> None:
        label = np.zeros_like(paint())
        label[[2, 5, 8, 11][:slices]] = 1
        label[3, 3, 3] = 1
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", label)), "final", {})

    annotate("a", 3)
    annotate("b", 1)
    assert [annotator.next() for _ in range(2)] == ["c", "c"]
    annotate("c", 2)
    assert annotator.next() == "b"
    annotate("b", 4)
    assert annotator.next() == "c"
    annotate("c", 3)
    # a and c have three each.
    assert [annotator.next() for _ in range(3)] == ["a", "c", "a"]
    assert Annotator(store, "you").next() == "a"


def test_an_empty_datastore_offers_nothing(tmp_path: Path) -> None:
    store = AnnotationStore(str(tmp_path), LabelScheme(("inside",), "outside"))
    assert Sparse()({"strategy": "sparse"}, store) is None
