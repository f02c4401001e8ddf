"""A DICOM archive as the source of a project's images, and as a second place for its annotations."""
