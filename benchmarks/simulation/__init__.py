"""Simulations of many readers of one large dataset: the daemon's own scheduler, a virtual clock.

workload.py   who reads when and how fast, and what the machine can do
machine.py    readers and workers that a virtual clock moves; it carries out instructions
rivals.py     what others do: a cache of the chunks used last, and a circular scan
bound.py      how many loads nobody could have done without
measure.py    tables, figures, and what one slow reader costs its peers
"""
