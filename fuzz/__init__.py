"""Grammar fuzzers of the code that reads what others sent: the core, the parser and the client's session.

The sources in C are one program, for the core. ``python`` and ``cost`` fuzz the parser, and ``session`` the
client's session, with what ``grammar`` makes. Each fuzzer states what must hold for any input, and feeds it
whole and in pieces. ``make fuzz`` runs all of them.
"""
