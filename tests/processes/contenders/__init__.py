"""Contenders that are wrong, for the tests of the benchmark."""
