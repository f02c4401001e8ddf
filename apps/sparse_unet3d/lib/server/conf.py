"""The options that ``monailabel start_server --conf KEY VALUE`` gives to the app."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..core.annotations import Unpainted
from ..core.errors import InputError
from ..core.labels import LabelScheme
from ..core.normalisation import Statistics
from ..core.plan import PlanOptions, Recipe

KEYS = {
    "labels": "foreground classes in order, separated by commas (inside,tubule)",
    "background": "painted class for nothing of interest (outside)",
    "models": "folder for trained models (models in the studies folder)",
    "width": "feature maps of the first convolution (32 on a GPU, as in the paper; fewer on a CPU)",
    "spacing": "working voxel size, three numbers separated by commas, in the image's unit "
    "(the image's own if its voxels are nearly cubes)",
    "statistics": "what batch normalisation goes by outside training: tile, volume, running or mixed (mixed)",
    "recipe": "how to train: quick, or as in the paper (quick)",
    "memory": "gigabytes that segmenting may take (what is free, with a margin)",
    "unpainted": "what unpainted voxels in annotated slices count as: unlabelled or background (unlabelled)",
}
"""Known keys, what they mean, and in brackets their defaults."""

FOREIGN_KEYS = {"server_mode"}
"""Keys that MONAI Label itself reads."""


@dataclass(frozen=True)
class Conf:
    """What the person who started the server decided.

    Attributes:
        scheme: the label scheme.
        models: folder of the project's models.
        plan: decisions about the network; None leaves them to the plan.
        memory: bytes that a computation may take; None: what is free when it starts, with a margin.
    """

    scheme: LabelScheme
    models: Path
    plan: PlanOptions
    memory: int | None

    @classmethod
    def parse(cls, conf: Mapping[str, str], app_dir: str, studies: str) -> "Conf":
        """Read ``--conf`` options.

        Args:
            conf: the options as texts.
            app_dir: folder of the app; keeps the models where the studies are on another server.
            studies: studies folder, or URL of a remote store.

        Raises:
            InputError: an unknown key, or a value that isn't possible; names the key and what is.
        """
        unknown = sorted(set(conf) - set(KEYS) - FOREIGN_KEYS)
        if unknown:
            known = "; ".join(f"{key}: {meaning}" for key, meaning in KEYS.items())
            raise InputError(f"--conf {', '.join(unknown)}: no such option. Known are {known}")
        remote = studies.startswith(("http://", "https://"))
        default_models = Path(app_dir, "model") if remote else Path(studies, "models")
        return cls(
            scheme=LabelScheme.parse(conf.get("labels", "inside,tubule"), conf.get("background", "outside")),
            models=Path(conf.get("models") or default_models).absolute(),
            plan=PlanOptions(
                width=_whole_number(conf, "width"),
                spacing=_numbers(conf, "spacing"),
                statistics=cast(Statistics | None, conf.get("statistics")),
                recipe=cast(Recipe, conf.get("recipe", "quick")),
                unpainted=cast(Unpainted, conf.get("unpainted", "unlabelled")),
            ),
            memory=_gigabytes(conf, "memory"),
        )


def _gigabytes(conf: Mapping[str, Any], key: str) -> int | None:
    """Read a number of gigabytes; return bytes."""
    if key not in conf:
        return None
    try:
        size = float(conf[key])
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise InputError(f"--conf {key} {conf[key]}: not a number of gigabytes; give one, e.g. --conf {key} 8")
    return int(size * 1e9)


def _whole_number(conf: Mapping[str, Any], key: str) -> int | None:
    if key not in conf:
        return None
    try:
        return int(conf[key])
    except ValueError as error:
        raise InputError(f"--conf {key} {conf[key]}: not a whole number; give one, e.g. --conf {key} 8") from error


def _numbers(conf: Mapping[str, Any], key: str) -> tuple[float, ...] | None:
    if key not in conf:
        return None
    try:
        return tuple(float(number) for number in conf[key].split(","))
    except ValueError as error:
        raise InputError(f"--conf {key} {conf[key]}: not numbers; give three, e.g. --conf {key} 1,1,2.5") from error
