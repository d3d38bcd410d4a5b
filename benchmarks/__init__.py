"""Benchmarks: ratios within one run, printed with their spread. Run with `make bench`."""
