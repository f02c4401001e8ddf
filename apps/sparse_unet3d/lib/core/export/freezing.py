"""Freezing the statistics of a trained model, so that other software can run its network."""

from dataclasses import dataclass

from lib.core.data.preparation import PreparedImage
from lib.core.errors import InputError
from lib.core.inference.statistics import settle_statistics
from lib.core.model.model import Model
from lib.core.network.batch_norm import by_running_statistics
from lib.core.volumes.volume import Volume

from .frozen import FrozenNetwork


@dataclass(frozen=True, eq=False)
class Frozen:
    """A trained network with frozen statistics.

    Attributes:
        network: the network.
        statistics: a sentence for people: which statistics these are, and when its labels equal those of *Run*.
        equals_run: whether its labels equal those of *Run* on all images, to rounding.
    """

    network: FrozenNetwork
    statistics: str
    equals_run: bool


def freeze(model: Model, volume: Volume | None = None) -> Frozen:
    """Freeze the statistics by which a model's network normalises.

    Args:
        model: the model.
        volume: the image whose statistics to take; None for the averages over training tiles.

    Raises:
        InputError: the model has no averages, takes the statistics of each tile, or segments slices only; or the volume
            has another number of channels.
    """
    plan = model.plan
    if plan.dims != 3:
        raise InputError("the network segments single slices, and such networks can't be exported; train a 3-D one")
    if not plan.batch_norm:
        network, text, equals_run = model.network, "The network has no batch normalisation.", True
    elif volume is not None:
        if plan.statistics == "tile":
            raise InputError(
                "batch normalisation uses the statistics of each tile, which can't be frozen; continue training with "
                "--conf statistics=mixed"
            )
        image = PreparedImage.of(volume, plan).image
        network = settle_statistics(model.network, image, plan, "cpu")
        equals_run = plan.statistics == "running"
        text = f"Batch normalisation uses the {plan.statistics} statistics that Run takes for {volume.name}, so labels "
        text += "of this image equal Run's. For other images, Run takes others."
    elif plan.keeps_averages:
        network = by_running_statistics(model.network)
        equals_run = plan.statistics == "running"
        text = "Batch normalisation uses averages over training tiles, so labels equal those of Run with --conf "
        text += "statistics running."
        if not equals_run:
            text += f" This model's Run uses {plan.statistics} statistics of each image, so its labels differ."
    else:
        raise InputError(
            f"the network was trained for {plan.statistics} statistics and has no averages that could be frozen; "
            "give --statistics-of IMAGE, or continue training with --conf statistics=running"
        )
    return Frozen(FrozenNetwork(network, plan.architecture.tiles), text, equals_run)
