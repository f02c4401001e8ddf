"""What MONAI Label and 3D Slicer need; thin, each part calls ``core``."""
