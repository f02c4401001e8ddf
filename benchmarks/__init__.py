"""Side-by-side timings of this software and of what a user would otherwise pick. ``make benchmark``; see README.md."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "apps" / "sparse_unet3d"))
