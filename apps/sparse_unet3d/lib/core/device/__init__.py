"""The computer: devices, memory and floating point formats. Nothing here is about images or networks."""
