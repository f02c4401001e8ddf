"""Images and label maps: files, voxel grids in space, intensities; nothing here knows of learning."""
