"""One module a contender, which runs in an environment of its own.

A module has `open_reading(task)`, which makes a trainer's `Reading`, and perhaps
`serve(task)`, a context manager that runs what serves all trainers and gives what they must know
of it, and `convert(task)`, which makes a copy of the table in the contender's own format.
"""
