"""Random changes of training tiles: elastic deformation and grey values. The tiles' positions are drawn in ``data``."""
