"""Made-up kidneys of *Xenopus* with their true labels, for samples, tests and experiments; nothing here learns."""
