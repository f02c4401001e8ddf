"""Timings of this software and its alternatives: ``make benchmark``; see README.md."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "apps" / "sparse_unet3d"))
