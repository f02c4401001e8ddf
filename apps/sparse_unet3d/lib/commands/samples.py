"""The sample datastore: phantom volumes to try the software on."""

from pathlib import Path

from ..core.phantom import SAMPLE_SPECIMENS, write_samples


def make_samples(images_folder: Path, truth_folder: Path) -> bool:
    """Make the sample volumes unless all of them are there.

    Args:
        images_folder: where the images go; this is what the server serves.
        truth_folder: where the true label maps go, under the images' names; the server never sees them.

    Returns:
        Whether anything was made.
    """
    truths = list(truth_folder.glob("*.nii.gz"))
    if len(truths) >= len(SAMPLE_SPECIMENS) and all((images_folder / truth.name).exists() for truth in truths):
        return False
    print(f"Making {len(SAMPLE_SPECIMENS)} sample volumes in {images_folder} (about half a minute) ...", flush=True)
    write_samples(images_folder, truth_folder)
    return True
