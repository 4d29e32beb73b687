"""Code that abuses a server to see whether it can be trusted: the rows of docs/reliability.md.

Each is a function: it starts a server, does its worst to it, and returns an ``Outcome``: the figure that was
measured, and what did not hold. ``reliability.py`` runs all and writes the page; the tests run them in small.
"""
