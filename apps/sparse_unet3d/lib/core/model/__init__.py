"""Trained networks in files, and the folder that keeps them; nothing here trains or segments."""
