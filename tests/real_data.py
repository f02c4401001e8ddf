"""Real volumes with dense labels, which lie beside the repository on some machines."""

from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "data"


def label_maps() -> list[Any]:
    """All real label maps (images lie in ../images), as parameters of a test that is skipped if there are none."""
    found = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*/labels/*.nii.gz"))]
    missing = pytest.param(None, id="none", marks=pytest.mark.skip(reason=f"no real data in {FOLDER}"))
    return found or [missing]
