"""Training: steps, runs, scores on held-out slices, checkpoints."""
