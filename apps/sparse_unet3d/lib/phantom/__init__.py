"""Phantom *Xenopus* kidneys with true labels, for samples, tests and experiments; nothing here learns."""
