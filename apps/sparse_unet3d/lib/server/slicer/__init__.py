"""Names and replies for 3D Slicer; nothing here reads or writes files."""
