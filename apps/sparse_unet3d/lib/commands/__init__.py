"""What can be done from a shell: ``python apps/sparse_unet3d COMMAND``; thin."""
