"""What a stranger could send, and what must come of it.

`case.py` says what a case is and what counts as a violation, `server.py` runs cases in children
with limits of time and memory, the other modules write the cases, one family each.
`python -m hostile` from `tests/` runs all of them and prints a table.
"""
