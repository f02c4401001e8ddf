"""Simulated annotators: they paint slices of volumes with a known truth."""
