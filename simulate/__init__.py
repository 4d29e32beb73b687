"""The real server in a simulated world: a clock, a selector, sockets, and a kernel that fails at random.

A seed determines a run completely. ``core`` builds the C core on ``kernel.c``, and ``kernel`` is what the
loop sees of it. ``scenario`` is what a seed decides before a run. ``parts`` are the parts of the server that
report to the simulation: to ``costs``, which lets the clock advance with the work and bounds each turn, and
to ``faults``, which lets allocations in Python fail.

``client`` simulates a client: ``link`` is its connection, with the ``certificate`` if it uses TLS,
``reading`` the pace at which it reads, ``view`` what it derives from the log, and ``expectations`` what must
come of the lines that it sends. ``arrivals`` decides who connects, and ``crowd`` what each client does next;
``expensive`` makes the lines that cost most.

``truth`` is the log as it was written, with which clients are compared, and ``invariants`` are what must
hold; ``waiting`` has those about who waits for whom. ``replica`` is a second state that is fed only the
inputs. ``run`` puts everything together and decides what happens when; ``mutants`` breaks the server on
purpose. ``make simulate`` runs everything.
"""
