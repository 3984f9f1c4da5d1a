"""Benchmarks that are compared within one run; `python -m benchmarks` prints a table and writes benchmarks/results."""
