"""Images and label maps: their files, their grids in space, their intensities. Nothing here is about learning."""
