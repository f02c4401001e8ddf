"""The MONAI Label tasks: datastore, trainer, infer task, strategies, scoring. Thin: each calls ``core``."""
