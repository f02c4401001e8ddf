"""The 3-D U-Net, its tile arithmetic and its batch normalisation; no data and no training."""
