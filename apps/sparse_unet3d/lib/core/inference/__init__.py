"""From a volume to its segmentation by a trained network, tile by tile; no training."""
