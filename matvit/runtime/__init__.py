"""The machine that this runs on: devices, processes, measured times, progress."""
