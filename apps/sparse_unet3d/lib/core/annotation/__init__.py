"""Sparse annotation: which slices are annotated, which are held out, which to annotate next; no network."""
