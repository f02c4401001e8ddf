"""The network's input from volumes and annotations: prepared images and training tiles."""
