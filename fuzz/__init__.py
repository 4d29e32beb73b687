"""Grammar fuzzers of the code that reads what others sent: the core, the parser and the client's session.

The sources in C are one program, for the core; ``python`` and ``cost`` are for the parser, ``session`` for
the client's session, and ``grammar`` makes what they are fed. Each fuzzer states what must hold for any input, and feeds it whole and in pieces. ``make fuzz`` runs all of
them.
"""
