"""From volumes and annotations to what the network takes: prepared images and training tiles."""
