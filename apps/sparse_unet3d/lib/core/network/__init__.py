"""The architectures, tile sizes, batch normalisation and evaluators. Nothing here is about data or training."""
