"""What MONAI Label and 3D Slicer need; each part is thin and calls ``core``."""
