"""Benchmarks: contestants that take turns on one machine, and the figures that `benchmark.py` prints."""
