"""Measurements: pairs of runs in one process, every sample kept. What was recorded lies in recorded/, one file a machine."""
