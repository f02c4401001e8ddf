"""The computer: devices, memory and floating point formats; nothing here knows of images or networks."""
