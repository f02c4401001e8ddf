"""Random changes of training tiles: elastic deformation and grey values; where tiles lie is decided in ``data``."""
