"""What the server does on request: train, segment, suggest slices, score."""
