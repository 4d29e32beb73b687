"""The real server in a simulated world: a clock, a selector, sockets, and a kernel that fails at random.

A seed determines a run completely. ``core`` builds the C core on ``kernel.c``, and ``kernel`` is what the
loop sees of it. ``scenario`` is what a seed decides before a run, and ``client`` simulates the clients.
``truth`` is the log as it was written, with which clients are compared; ``invariants`` are what must hold,
and ``waiting`` are those about waits. ``replica`` is a second state that is fed only the inputs. ``run`` puts
everything together and decides what happens when; ``mutants`` breaks the server on purpose. ``make simulate``
runs everything.
"""
