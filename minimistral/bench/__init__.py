"""Measurements: pairs of runs in one process, every sample kept. What was recorded lies in recorded/, one file a machine."""

from minimistral.bench.report import Line, Table, goals, recorded, table
