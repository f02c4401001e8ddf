"""The sample volumes: phantoms to try the software on."""

from collections.abc import Sequence
from pathlib import Path

from .specimen import SAMPLE_SPECIMENS, Specimen, write_samples


def make_samples(images_folder: Path, truth_folder: Path, specimens: Sequence[Specimen] = SAMPLE_SPECIMENS) -> bool:
    """Make the sample volumes unless all of them exist.

    Args:
        images_folder: folder of the images, which the server serves.
        truth_folder: folder of the true label maps, under the images' names; the server never sees it.
        specimens: what to make.

    Returns:
        Whether volumes were made.
    """
    truths = list(truth_folder.glob("*.nii.gz"))
    if len(truths) >= len(specimens) and all((images_folder / truth.name).exists() for truth in truths):
        return False
    print(f"Making {len(specimens)} sample volumes in {images_folder} (about half a minute) ...", flush=True)
    write_samples(images_folder, truth_folder, specimens)
    return True
