"""The paper's experiments (section 4): ``python -m experiments``; see README.md."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "apps" / "sparse_unet3d"))

UNFINISHED = 3
"""Exit code of commands, also of ``benchmarks``, if something is missing that the same command goes on with."""

TEMPLATES = PROJECT / "experiments" / "templates"
"""Of the reports, beside those of ``lib.report``."""
