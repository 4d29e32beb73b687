"""The real server in a simulated world: clock, selector, sockets, and a kernel that fails by chance.

One seed is one run, always the same. ``core`` builds the C core on ``kernel.c``; ``kernel`` is what the loop
sees of that; ``scenario`` is what a seed settles before a run; ``client`` is who connects; ``truth`` is what
clients and ``invariants`` are held against; ``run`` puts it together, and says what happens when; ``mutants``
breaks the server on purpose. ``make simulate`` runs all.
"""
