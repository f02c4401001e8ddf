"""Trained models for other software: networks of torch's own layers, model cards, and packages."""
