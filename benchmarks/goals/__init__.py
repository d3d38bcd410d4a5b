"""The goals of speed, G1 to G13: what is aimed at (`table.py`), and how each is measured.

A measurement is a function that returns values by the names of a goal's bounds; `verdicts.py` sets
them beside the bounds. Nothing is judged by eye, and a miss is printed as one.
"""
