"""What the tests of simulated annotators share."""

import pytest

from dense_volumes import write_balls


@pytest.fixture
def studies(tmp_path):
    """A folder with images/ and labels/, see ``write_balls``."""
    folder = tmp_path / "studies"
    write_balls(folder)
    return folder
