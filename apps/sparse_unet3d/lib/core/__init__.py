"""The method of Çiçek et al. 2016: 3-D U-Net learning from sparse annotation. Knows nothing of any server."""
