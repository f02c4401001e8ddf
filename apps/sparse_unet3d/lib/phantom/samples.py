"""The sample datastore: phantom volumes to try the software on."""

from collections.abc import Sequence
from pathlib import Path

from .specimen import SAMPLE_SPECIMENS, Specimen, write_samples


def make_samples(images_folder: Path, truth_folder: Path, specimens: Sequence[Specimen] = SAMPLE_SPECIMENS) -> bool:
    """Make the sample volumes unless all of them are there.

    Args:
        images_folder: where the images go; this is what the server serves.
        truth_folder: where the true label maps go, under the images' names; the server never sees them.
        specimens: what to make.

    Returns:
        Whether anything was made.
    """
    truths = list(truth_folder.glob("*.nii.gz"))
    if len(truths) >= len(specimens) and all((images_folder / truth.name).exists() for truth in truths):
        return False
    print(f"Making {len(specimens)} sample volumes in {images_folder} (about half a minute) ...", flush=True)
    write_samples(images_folder, truth_folder, specimens)
    return True
