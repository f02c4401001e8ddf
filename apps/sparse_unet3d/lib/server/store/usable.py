"""Which annotated images can be used for training, and why the others can't."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from lib.core.errors import InputError

from .annotations import AnnotationReader

Read = TypeVar("Read")


def read_all(store: AnnotationReader, read: Callable[[str], Read]) -> tuple[dict[str, Read], dict[str, str]]:
    """Read each annotated image; a failure doesn't stop the others.

    Args:
        store: the datastore.
        read: reads an image by its id.

    Returns:
        What was read, and why the other images couldn't be read, by id.
    """
    usable, left_out = dict[str, Read](), dict[str, str]()
    for image_id in store.get_labeled_images():
        try:
            usable[image_id] = read(image_id)
        except InputError as error:
            left_out[image_id] = str(error)
    return usable, left_out


def unlike_channels(channels: Mapping[str, int]) -> dict[str, str]:
    """Find the images whose number of channels differs from the most frequent one; in a tie, the first counts.

    Args:
        channels: number of channels by image id.

    Returns:
        Why each of these images can't be used with the others, by id.
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
