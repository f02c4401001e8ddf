from pathlib import Path

import pytest

from serving import write_image


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with the images a and b."""
    folder = tmp_path / "studies"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "b.nii.gz", seed=2)
    return folder
