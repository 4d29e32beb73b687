"""The real server in a simulated world: clock, selector, sockets, and a kernel that fails by chance.

A seed is a run, and always the same one. ``core`` builds the C core on ``kernel.c``, and ``kernel`` is what
the loop sees of that. ``scenario`` is what a seed decides before a run, and ``client`` is who connects.
``truth`` is what clients and ``invariants`` are compared with, and ``replica`` is a second state that is fed
with the inputs alone. ``run`` puts all together and says what happens when; ``mutants`` breaks the server on
purpose. ``make simulate`` runs everything.
"""
