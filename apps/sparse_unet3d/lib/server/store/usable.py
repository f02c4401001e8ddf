"""Which annotated images can be trained on, and why others can't: one that can't isn't to stop the others."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from lib.core.errors import InputError

from .versions import VersionStore

Read = TypeVar("Read")


def read_all(store: VersionStore, read: Callable[[str], Read]) -> tuple[dict[str, Read], dict[str, str]]:
    """Read what there is of each annotated image.

    Args:
        store: the datastore.
        read: reads one, by its id.

    Returns:
        What was read, and for the others why it couldn't be, by id.
    """
    usable, left_out = dict[str, Read](), dict[str, str]()
    for image_id in store.get_labeled_images():
        try:
            usable[image_id] = read(image_id)
        except InputError as error:
            left_out[image_id] = str(error)
    return usable, left_out


def unlike_channels(channels: Mapping[str, int]) -> dict[str, str]:
    """Find the images with another number of channels than most; of two numbers that are as frequent the first counts.

    Args:
        channels: their number by image id.

    Returns:
        Why each can't be trained on with the others, by id.
    """
    if not channels:
        return {}
    ((usual, _),) = Counter(channels.values()).most_common(1)
    return {
        image_id: f"image {image_id!r} has {number} channel(s), most annotated images have {usual}; put images "
        "recorded in different ways into different folders"
        for image_id, number in channels.items()
        if number != usual
    }
