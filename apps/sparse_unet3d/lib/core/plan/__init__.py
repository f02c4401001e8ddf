"""The plan: all that is decided from data and device before training, and how it differs from the paper."""
