"""Files of trained networks, and the folder that keeps them. Nothing here trains or segments."""
