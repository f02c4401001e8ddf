"""The shell commands, ``python apps/sparse_unet3d COMMAND``; each is thin."""
