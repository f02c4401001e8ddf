"""Losses over labelled voxels, by name; nothing here knows how tiles are drawn or steps are made."""
