"""Training: loss, steps, runs, scores on held-out slices, checkpoints."""
