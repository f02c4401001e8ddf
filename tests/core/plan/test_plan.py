import json
from dataclasses import replace

import numpy as np
import pytest

from lib.core.data.preparation import prepare_image
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.plan.options import PlanOptions
from lib.core.plan.paper import differences
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def volume(shape: tuple[int, ...], spacing: tuple[float, ...] = (1, 1, 1), channels: int = 3) -> Volume:
    array = np.random.default_rng(0).integers(0, 1000, size=(channels, *shape)).astype(np.uint16)
    return Volume(array, np.diag([*spacing, 1.0]), None)


def test_on_a_gpu_the_network_is_the_papers() -> None:
    plan = make_plan([volume((248, 244, 64), (1.76, 1.76, 2.04))], SCHEME, PlanOptions(), "cuda")
    assert (plan.width, plan.channels, plan.dims, plan.batch_norm) == (32, 3, 3, True)
    assert (plan.tile, plan.context) == ((124, 132, 132), 44)


def test_on_a_cpu_the_network_is_narrower_and_tiles_are_smaller() -> None:
    plan = make_plan([volume((248, 244, 64), (1.76, 1.76, 2.04))], SCHEME, PlanOptions(), "cpu")
    assert (plan.width, plan.context) == (8, 6)
    assert np.prod(np.array(plan.tile) - 76) < 200_000
    assert plan.augmentation.deformation.elastic_sd == 4
    assert plan.augmentation.deformation.elastic_spacing == 32


def test_tile_covers_the_largest_volume_if_that_is_small() -> None:
    plan = make_plan([volume((36, 20, 10)), volume((12, 28, 30))], SCHEME, PlanOptions(), "cpu")
    assert plan.tile == (124, 116, 124)


def test_a_persons_options_count() -> None:
    options = PlanOptions(width=5, spacing=(2, 2, 2), statistics="tile")
    plan = make_plan([volume((60, 60, 60))], SCHEME, options, "cpu")
    assert (plan.width, plan.spacing, plan.statistics, plan.tile) == (5, (2, 2, 2), "tile", (124, 124, 124))
    assert plan.agrees_with(options)
    assert plan.agrees_with(PlanOptions())
    assert not plan.agrees_with(PlanOptions(width=6))


def test_dice_is_added_to_the_papers_loss_unless_a_person_decides() -> None:
    small = [volume((36, 20, 10))]
    plans = {loss: make_plan(small, SCHEME, PlanOptions(loss=loss), "cpu") for loss in (None, "cross_entropy")}
    assert {loss: plan.loss for loss, plan in plans.items()} == {
        None: "dice_cross_entropy",
        "cross_entropy": "cross_entropy",
    }
    # A training goes on with the loss that it began with, unless a person wants another one.
    assert plans["cross_entropy"].agrees_with(PlanOptions())
    assert not plans[None].agrees_with(PlanOptions(loss="cross_entropy"))
    assert make_plan(small, SCHEME, PlanOptions(recipe="paper"), "cpu").loss == "cross_entropy"


def test_the_papers_recipe_differs_in_nothing_but_what_a_person_decided() -> None:
    small = [volume((36, 20, 10))]
    paper = make_plan(small, SCHEME, PlanOptions(recipe="paper"), "cpu")
    assert (paper.width, paper.tile, paper.context, paper.statistics) == (32, (132, 132, 116), 44, "tile")
    assert differences(paper) == []
    # Section 3.2: weights that balance the classes' influence, and nothing else that does; plain SGD. Section 2: the
    # current statistics of the tile at test time.
    assert (paper.class_balance, paper.centres, paper.test_tile) == (1.0, "voxels", (132, 132, 116))
    assert (paper.decay, paper.nesterov, paper.averaging, paper.half_precision) == (0.0, False, 0.0, False)
    narrow = make_plan(small, SCHEME, PlanOptions(recipe="paper", width=8), "cpu")
    quick = make_plan(small, SCHEME, PlanOptions(), "cpu")
    assert set(differences(quick)) > set(differences(narrow))
    assert [text.split(":")[0] for text in differences(narrow)] == ["width 8 instead of 32"]
    assert not paper.agrees_with(PlanOptions())
    assert not quick.agrees_with(PlanOptions(recipe="paper"))
    assert paper.agrees_with(PlanOptions(recipe="paper"))


def test_averages_of_training_are_not_used_where_there_are_none() -> None:
    by_tile = make_plan([volume((60, 60, 60))], SCHEME, PlanOptions(statistics="tile"), "cpu")
    assert by_tile.with_statistics(PlanOptions()).statistics == "tile"
    assert by_tile.with_statistics(PlanOptions(statistics="volume")).statistics == "volume"
    for statistics in ("running", "mixed"):
        with pytest.raises(InputError, match=f"--conf statistics {statistics}: .* continue training"):
            by_tile.with_statistics(PlanOptions(statistics=statistics))
        # Continued training takes them.
        assert by_tile.continued(PlanOptions(statistics=statistics)).statistics == statistics
    by_default = make_plan([volume((60, 60, 60))], SCHEME, PlanOptions(), "cpu")
    for chosen in ("mixed", "volume", "running"):
        # Training has compared them all, so that it has averages, whatever it chose.
        by_score = replace(by_default, statistics=chosen)
        assert by_score.with_statistics(PlanOptions()).statistics == chosen
        assert by_score.with_statistics(PlanOptions(statistics="running")).statistics == "running"


def test_statistics_are_chosen_among_several_unless_a_person_or_the_paper_did() -> None:
    small = [volume((60, 60, 60))]
    by_default = make_plan(small, SCHEME, PlanOptions(), "cpu")
    assert (by_default.statistics, by_default.chosen_from) == ("mixed", ("mixed", "volume", "running"))
    by_person = PlanOptions(statistics="volume")
    assert make_plan(small, SCHEME, by_person, "cpu").chosen_from == ()
    assert make_plan(small, SCHEME, PlanOptions(recipe="paper"), "cpu").chosen_from == ()
    by_score = replace(by_default, statistics="running")
    assert by_score.continued(PlanOptions()) == by_score
    assert by_score.continued(by_person) == replace(by_default, statistics="volume", chosen_from=())
    assert by_score.continued(by_person).continued(PlanOptions()) == replace(by_default, statistics="volume")
    assert Plan.from_json(json.loads(json.dumps(by_score.to_json()))) == by_score
    # Plans of earlier versions.
    earlier = {key: value for key, value in by_score.to_json().items() if key != "chosen_from"}
    assert Plan.from_json(earlier) == replace(by_score, chosen_from=())


def test_continued_training_takes_the_current_option_for_unpainted_voxels() -> None:
    background = PlanOptions(unpainted="background")
    plan = make_plan([volume((60, 60, 60))], SCHEME, background, "cpu")
    assert plan.unpainted == "background"
    assert plan.agrees_with(PlanOptions())
    assert plan.continued(PlanOptions()).unpainted == "unlabelled"
    assert plan.continued(PlanOptions(statistics="tile")).statistics == "tile"
    # Plans from before this option existed.
    earlier = {key: value for key, value in plan.to_json().items() if key != "unpainted"}
    assert Plan.from_json(earlier).unpainted == "unlabelled"
    assert Plan.from_json(earlier).continued(background) == plan


def test_flat_voxels_are_resampled_to_nearly_cubes() -> None:
    """The network then sees about as far along each axis; a person's own choice takes precedence."""
    flat = [volume((192, 192, 32), (0.25, 0.25, 2.0)), volume((160, 192, 32), (0.25, 0.25, 2.0))]
    plan = make_plan(flat, SCHEME, PlanOptions(), "cpu")
    assert plan.spacing == (1, 1, 2)
    image, grid = prepare_image(flat[0], plan)
    assert image.shape == (3, 48, 48, 32)
    assert grid.voxel_size((0.25, 0.25, 2.0)) == pytest.approx((1, 1, 2))
    assert make_plan(flat, SCHEME, PlanOptions(spacing=(0.5, 0.5, 2)), "cpu").spacing == (0.5, 0.5, 2)
    assert make_plan([volume((40, 40, 20), (1, 1, 2))], SCHEME, PlanOptions(), "cpu").spacing is None


def test_padded_networks_of_earlier_versions_get_the_context_of_todays() -> None:
    for device, now in (("cpu", 6), ("cuda", 44)):
        plan = make_plan([volume((60, 60, 60))], SCHEME, PlanOptions(), device)
        earlier = {**plan.to_json(), "context": 14 if device == "cpu" else 44}
        assert Plan.from_json(earlier) == plan
        assert plan.context == now


def test_plan_survives_json() -> None:
    plan = make_plan([volume((60, 60, 20), (0.25, 0.25, 2.0))], SCHEME, PlanOptions(spacing=(1, 1, 2)), "cpu")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"width": 0}, "width: 0"),
        ({"spacing": (1, 2)}, r"spacing: \(1, 2\)"),
        ({"spacing": (1, 2, -3)}, "three positive numbers"),
        ({"statistics": "batch"}, "'batch'; give one of tile, volume, running, mixed"),
        ({"unpainted": "outside"}, "unpainted: 'outside'; give one of unlabelled, background"),
    ],
)
def test_bad_options_are_refused_by_name(values: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        PlanOptions(**values)


def test_invalid_tile_is_refused() -> None:
    with pytest.raises(InputError, match=r"130 is no valid size; take 132"):
        Plan(SCHEME, 1, None, 8, (130, 132, 132))


def test_image_is_scaled_and_resampled() -> None:
    plan = make_plan([volume((40, 40, 20))], SCHEME, PlanOptions(spacing=(2, 2, 1)), "cpu")
    image, grid = prepare_image(volume((40, 40, 20)), plan)
    assert image.shape == (3, 20, 20, 20)
    assert grid.native == (40, 40, 20)
    assert 0 <= float(image.min()) < float(image.max()) <= 1


def test_other_number_of_channels_is_refused() -> None:
    plan = make_plan([volume((40, 40, 20))], SCHEME, PlanOptions(), "cpu")
    with pytest.raises(InputError, match=r"2 channel\(s\).* trained on 3"):
        prepare_image(volume((40, 40, 20), channels=2), plan)


def test_a_context_that_the_network_cannot_use_is_refused() -> None:
    with pytest.raises(InputError, match=r"context 18; expected 6 or 44"):
        Plan(SCHEME, 1, None, 8, (132, 132, 132), context=18)


def test_statistics_of_thin_volumes_cover_all_that_fits() -> None:
    """At width 8, 8 million voxels fit. A mirrored volume of 20 slices repeats itself after 40."""
    plan = make_plan([volume((800, 800, 20), channels=1)], SCHEME, PlanOptions(width=8), "cpu")
    across, down, thin = plan.test_tile
    assert thin - 88 >= 20
    assert 0.9 * 8_000_000 < across * down * 40 <= 8_000_000
