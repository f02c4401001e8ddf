"""The software: the method (``core``), the server around it, the commands. No experiments and no benchmarks."""
