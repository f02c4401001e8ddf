"""Paths in the project."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
APP = PROJECT / "apps" / "sparse_unet3d"
