"""Grammar fuzzers of the code that reads what others sent: the core, the parser and the client's session.

Each fuzzer states what must hold for any input, and feeds it whole and in pieces. ``make fuzz`` runs all of
them.
"""
