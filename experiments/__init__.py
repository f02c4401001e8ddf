"""The paper's experiments (section 4): ``python -m experiments``; see README.md."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "apps" / "sparse_unet3d"))

TEMPLATES = PROJECT / "experiments" / "templates"
"""Of the reports, beside those of ``lib.report``."""
