"""The method of Çiçek et al. 2016, learning a 3-D U-Net from sparse annotation. Nothing here knows of a server."""
