"""Grammar fuzzers of all that reads what others sent: the core's input, the parser, the client's session.

Each states what must hold for any input, and feeds it whole and in pieces. ``make fuzz`` runs all.
"""
