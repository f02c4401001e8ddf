"""Which statistics an exported network has, and what its labels then equal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exported import AFFINE, MACHINE, VOXEL, agreement, image, labels_of_run, train_model
from lib.core.errors import InputError
from lib.core.export.freezing import Frozen, freeze
from lib.core.export.preprocessing import preprocessing
from lib.core.export.segmentation import Segmentation
from lib.core.inference.segmenter import Segmenter
from lib.core.model.model import Model, build_network
from lib.core.volumes.volume import Volume


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("models"), statistics="mixed")


@pytest.fixture
def model(file: Path) -> Model:
    return Model.load(file)


def labels_of(model: Model, frozen: Frozen, volume: Volume) -> np.ndarray:
    segmentation = Segmentation(frozen.network, preprocessing(model.plan))
    return segmentation.segment(torch.as_tensor(volume.array), list(VOXEL)).numpy()


def volume(seed: int = 4, bright: int = 0) -> Volume:
    """An image of which the half beyond ``bright`` is far brighter; its statistics are not those of training."""
    array = image((33, 25, 15), seed=seed)
    if bright:
        array[:, bright:] += 2000
    return Volume(array, AFFINE)


def test_averages_give_the_labels_of_run_with_running_statistics(model: Model) -> None:
    frozen = freeze(model)
    by_averages = Segmenter(model.network, replace(model.plan, statistics="running"))
    odd = volume(bright=17)
    assert agreement(labels_of(model, frozen, odd), by_averages.segment(odd, MACHINE)) > 0.9995
    # Its Run takes other statistics, and the text says so.
    assert agreement(labels_of(model, frozen, odd), Segmenter(model.network, model.plan).segment(odd, MACHINE)) < 0.99
    assert not frozen.equals_run
    assert "This model's Run uses mixed statistics of each image, so its labels differ" in frozen.statistics


def test_averages_are_what_run_uses_with_running_statistics(model: Model) -> None:
    frozen = freeze(replace(model, plan=replace(model.plan, statistics="running")))
    assert frozen.equals_run
    assert "differ" not in frozen.statistics


@pytest.mark.parametrize("statistics", ["mixed", "volume"])
def test_statistics_of_an_image_give_its_labels(model: Model, file: Path, tmp_path: Path, statistics: str) -> None:
    changed = replace(model, plan=replace(model.plan, statistics=statistics))
    changed.save(tmp_path / "model.pt")
    frozen = freeze(changed, volume())
    assert agreement(labels_of(changed, frozen, volume()), labels_of_run(tmp_path / "model.pt", volume())) > 0.9995
    odd = volume(bright=17)
    run = Segmenter(changed.network, changed.plan).segment(odd, MACHINE)
    assert agreement(labels_of(changed, frozen, odd), run) < 0.99
    assert not frozen.equals_run
    assert f"the {statistics} statistics that Run takes for the image" in frozen.statistics


def test_what_cannot_be_frozen_is_refused(model: Model) -> None:
    for change, given, words in (
        ({"statistics": "tile"}, volume(), "each tile, which can't be frozen; continue training"),
        ({"statistics": "tile", "chosen_from": ()}, None, "trained for tile statistics and has no averages"),
        ({"statistics": "volume", "chosen_from": ()}, None, "trained for volume statistics .* --statistics-of IMAGE"),
        ({"dims": 2}, None, "single slices"),
        ({}, Volume(image((33, 25, 15), channels=1), AFFINE), r"1 channel\(s\), the model was trained on 2"),
    ):
        with pytest.raises(InputError, match=words):
            freeze(replace(model, plan=replace(model.plan, **change)), given)


def test_without_batch_normalisation_there_is_nothing_to_freeze(model: Model) -> None:
    plan = replace(model.plan, batch_norm=False, statistics="tile")
    torch.manual_seed(0)
    frozen = freeze(replace(model, network=build_network(plan).eval(), plan=plan))
    assert frozen.equals_run
    assert frozen.statistics == "The network has no batch normalisation."
