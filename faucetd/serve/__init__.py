"""Serve: RPCs and file descriptors in, events out; grants back. Knows no warehouse and no torch."""
