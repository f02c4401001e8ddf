"""--conf options."""

from pathlib import Path

import psutil
import pytest

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.conf import KEYS, Conf


def parse(**conf: str) -> Conf:
    return Conf.parse(conf, "/studies")


def test_without_options() -> None:
    conf = parse()
    assert conf.scheme == LabelScheme(("inside", "tubule"), "outside")
    assert conf.models == Path("/studies/models")
    assert (conf.plan.width, conf.plan.spacing, conf.plan.statistics) == (None, None, None)
    assert conf.plan.unpainted == "unlabelled"
    assert (conf.plan.recipe, conf.plan.network, conf.plan.loss) == ("quick", "unet", None)
    assert conf.memory is None
    assert 0 < conf.upload <= min(8e9, psutil.virtual_memory().total / 4)
    assert (conf.unlabelled, conf.create) == (None, False)


def test_with_all_options() -> None:
    conf = parse(
        labels="anterior, posterior",
        background="rest",
        models="/elsewhere",
        width="8",
        spacing="1,1.5,2",
        statistics="tile",
        unpainted="background",
        memory="7.5",
        upload="0.5",
        recipe="paper",
        network="residual",
        loss="dice_cross_entropy",
        server_mode="true",
        unlabelled="none",
        create="yes",
    )
    assert conf.scheme == LabelScheme(("anterior", "posterior"), "rest")
    assert conf.models == Path("/elsewhere")
    assert (conf.plan.width, conf.plan.spacing, conf.plan.statistics) == (8, (1.0, 1.5, 2.0), "tile")
    assert conf.plan.unpainted == "background"
    assert (conf.plan.recipe, conf.plan.network, conf.plan.loss) == ("paper", "residual", "dice_cross_entropy")
    assert (conf.memory, conf.upload) == (7_500_000_000, 500_000_000)
    assert (conf.unlabelled, conf.create) == ("none", True)


def test_a_windows_drive_is_not_taken_for_an_address() -> None:
    Conf.parse({}, "C:/data")


def test_an_unknown_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="lables") as refused:
        parse(lables="inside")
    assert all(key in str(refused.value) for key in KEYS)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("labels", "inside,inside", "'inside' is given twice"),
        ("labels", "inside,outside", "'outside' is given twice"),
        ("labels", "inside,,tubule", "empty"),
        ("labels", "", "empty"),
        ("background", "background", "'background' is reserved"),
        ("labels", "inside (predicted)", "reserved"),
        ("width", "wide", "width wide"),
        ("width", "0", "width: 0"),
        ("spacing", "1,x,1", "spacing 1,x,1"),
        ("spacing", "1,1", "three positive numbers"),
        ("statistics", "mean", "'mean'.*tile, volume, running, mixed"),
        ("memory", "0", "--conf memory 0: not a number of gigabytes"),
        ("memory", "much", "--conf memory much: not a number of gigabytes"),
        ("upload", "0", "--conf upload 0: not a number of gigabytes"),
        ("network", "vnet", "network: 'vnet'; give one of unet, residual"),
        ("loss", "focal", "loss: 'focal'; give one of cross_entropy, dice_cross_entropy"),
        ("recipe", "fast", "recipe: 'fast'.*quick, paper"),
        ("unlabelled", "background", "--conf unlabelled background: give one of 0, none"),
        ("create", "true", "--conf create true: give one of yes, no"),
        ("unpainted", "outside", "unpainted: 'outside'.*unlabelled, background"),
    ],
)
def test_impossible_values_are_refused(key: str, value: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(**{key: value})
