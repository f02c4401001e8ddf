"""The paper's experiments (section 4). Imports the core and simulated annotators, never MONAI Label."""
