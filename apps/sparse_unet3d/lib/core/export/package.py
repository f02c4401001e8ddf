"""A model that is exported: its frozen network, what has to be done before and after it, and its card."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.core.errors import check_one_of
from lib.core.files import new_folder
from lib.core.model.model import load_with_digest
from lib.core.plan.plan import Plan
from lib.core.volumes.volume import Volume

from .bioimageio import write_bioimageio
from .bundle import write_bundle
from .card import ModelCard
from .freezing import Frozen, freeze
from .onnx_model import write_onnx
from .preprocessing import preprocessing
from .torchscript import write_torchscript

Writer = Callable[[Path, Frozen, dict[str, Any], ModelCard], None]
"""Writes into a folder: the network, its ``preprocessing``, and what is known of it."""

WRITERS: dict[str, Writer] = {
    "bundle": write_bundle,
    "onnx": write_onnx,
    "bioimageio": write_bioimageio,
    "torchscript": write_torchscript,
}
"""The formats by name."""


@dataclass(frozen=True, eq=False)
class Package:
    """A model that is exported.

    Attributes:
        plan: the plan by which it was trained.
        frozen: its network.
        card: what is known of it.
    """

    plan: Plan
    frozen: Frozen
    card: ModelCard

    @classmethod
    def of(cls, file: Path, volume: Volume | None = None, licence: str = "", provenance: bool = False) -> "Package":
        """Prepare to export a model.

        Args:
            file: of the model.
            volume: the image whose statistics to freeze; None for the averages over training tiles.
            licence: of the model.
            provenance: whether the card says which versions of annotations went into it, and by whom.

        Raises:
            InputError: the file can't be read or is of an older format, or see ``freeze`` and ``ModelCard.of``.
        """
        model, digest = load_with_digest(file)
        frozen = freeze(model, volume)
        return cls(model.plan, frozen, ModelCard.of(model, digest, frozen.statistics, licence, provenance))

    def write(self, folder: Path, kind: str) -> None:
        """Write the model in one of ``WRITERS``' formats, into a new folder that appears when all of it is there.

        Raises:
            InputError: another format, the folder exists and isn't empty, or the format can't hold the model.
            OSError: the folder can't be written.
        """
        check_one_of("--as", kind, WRITERS)
        with new_folder(folder) as beside:
            WRITERS[kind](beside, self.frozen, preprocessing(self.plan), self.card)
            (beside / "model_card.json").write_text(json.dumps(self.card.to_json(), indent=1) + "\n", encoding="utf-8")
