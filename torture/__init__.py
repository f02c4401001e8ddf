"""Hard treatment of the real server and store, checked against what clients know: ``make torture``; see README.md."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
# Server and images are started and made as the tests do it.
sys.path[:0] = [str(PROJECT / "apps" / "sparse_unet3d"), str(PROJECT / "tests")]
