"""The real server in a simulated world: clock, selector, sockets, and a kernel that fails by chance.

One seed is one run, always the same. ``core`` builds the C core on ``kernel.c``; ``kernel`` is what the loop
sees of that; ``client`` and ``world`` are who connects and when; ``truth`` is what the invariants are held
against; ``run`` puts it together; ``mutants`` breaks the server on purpose. ``make simulate`` runs all.
"""
