"""What 3D Slicer calls things and what it is told; nothing here reads or writes files."""
