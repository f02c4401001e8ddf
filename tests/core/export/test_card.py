"""The model card says what is recorded, and says so where nothing is."""

from dataclasses import replace

import pytest

from exported import train_model
from lib.core.annotation.split import Block
from lib.core.errors import InputError
from lib.core.export.card import UNKNOWN, ModelCard
from lib.core.model.model import Model
from lib.core.model.origin import PaintVersion


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.load(train_model(tmp_path_factory.mktemp("models"), epochs=3, statistics="running"))


def card(model: Model, licence: str = "", provenance: bool = False) -> ModelCard:
    return ModelCard.of(model, "abc", "Averages.", licence, provenance)


def rows(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line[:1] == "|"]


def test_it_says_what_the_model_was_trained_on_and_how_well_it_did(model: Model) -> None:
    found = card(model, "CC-BY-4.0")
    assert (found.seed, found.licence, found.voxel_mm) == (0, "CC-BY-4.0", pytest.approx((0.8, 1.1, 2.0)))
    assert found.iou is not None
    assert found.iou.keys() == {"ball", "shell"}
    assert sum(found.iou.values()) / 2 == pytest.approx(model.score)
    # All slices that were painted, see ``train_model``.
    assert sum(of.trained + of.held_out for of in found.images.values()) == 12
    assert found.images["a"].held_out > 0
    page = rows(found.to_markdown())
    assert ["1", "ball"] in page
    assert ["ball", f"{found.iou['ball']:.3f}"] in page
    assert ["a", str(found.images["a"].trained), str(found.images["a"].held_out)] in page
    assert ["licence", "CC-BY-4.0"] in page
    assert "measured with running statistics" in found.to_markdown()
    assert UNKNOWN not in found.to_markdown()


def test_held_out_blocks_count_as_their_planes(model: Model) -> None:
    split = replace(model.split, blocks={"a": [Block(2, 3, 5), Block(2, 8, 8)]}, validation={})
    assert card(replace(model, split=split)).images["a"].held_out == 4


def test_what_an_earlier_version_did_not_record_is_said(model: Model) -> None:
    found = card(replace(model, origin=None))
    assert (found.seed, found.iou, found.trained_by) == (None, None, None)
    page = rows(found.to_markdown())
    assert ["seed", UNKNOWN] in page
    assert ["trained by", UNKNOWN] in page
    assert "none stated" in dict(row for row in page if len(row) == 2)["licence"]


def test_training_scores_are_not_sold_as_held_out(model: Model) -> None:
    assert "No slice was held out" in card(replace(model, metric="training IoU")).to_markdown()
    assert "No slice was held out" not in card(model).to_markdown()


def test_people_are_named_only_if_asked_for(model: Model) -> None:
    assert model.origin is not None
    paint = (PaintVersion("a", 2, "anna | b", "2026-11-03T10:00:00+00:00", "d1e9"), PaintVersion("a", 3))
    known = replace(model, origin=replace(model.origin, paint=paint))
    assert "anna" not in card(known).to_markdown()
    assert card(known).to_json()["paint"] is None
    page = card(known, provenance=True).to_markdown()
    assert "| a | 2 | anna \\| b | 2026-11-03T10:00:00+00:00 | d1e9 |" in page
    assert "| a | 3 | unnamed | unknown |  |" in page
    for unknown in (model, replace(model, origin=None)):
        with pytest.raises(InputError, match="--provenance: the model doesn't record all versions"):
            card(unknown, provenance=True)
