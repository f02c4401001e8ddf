"""Measures segmentations: objects, volumes, surfaces, lengths."""
