"""Code that abuses servers to find out how reliable they are: the rows of docs/reliability.md.

Each row is a function that starts a server, abuses it, and returns a ``RowOutcome``: the measured figure, and
the requirements that did not hold. ``reliability.py`` runs all rows and writes the page; the tests run them
with smaller numbers.
"""
