"""Architectures: the 3-D U-Net, tile sizes, batch normalisation, evaluators; no data and no training."""
