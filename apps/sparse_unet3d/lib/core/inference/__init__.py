"""Segmentation of a volume by a trained network, tile by tile. Nothing here trains."""
