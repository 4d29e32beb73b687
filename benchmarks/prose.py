"""What the results page says besides its numbers: how they came about, and what they do not say."""

from __future__ import annotations

from typing import Final

OPENING: Final = """\
How fast one client's commands reach all others, and how soon the last of them: rankserver beside {peers}."""
METHOD: Final = """\
Measured on {date} on one machine ({cpus}){whole}. Every peer does the same kind of work for the same load
generator, a C program that checks what each receiver gets to the last byte: the same sockets, the same
receive loop, the same payload. {places} All use the system's congestion control ({congestion_control}),
but for rankserver, which by default uses Reno on the loopback, and the ceiling, which does so, too; what
Reno would give the others is in docs/performance.md. All peers take turns, in {rounds}. A figure is the
median of the rounds, with the slowest and the fastest round in small print; a ratio is taken in each round,
pair by pair, before the median. To repeat it: `make bench`."""
WHOLE: Final = {True: ", in a run that was interrupted and resumed", False: ", all in one run", None: ""}
PINNED: Final = """\
Servers run on CPU {server_cpu}, one at work at a time, and the generator on CPU {generator_cpu}, where it
polls and never sleeps, so that no server pays for waking up receivers."""
SHARED: Final = """\
Servers and the generator share all CPUs, as there are no two to choose from."""

NO_PLOTS: Final = """\
There are no plots here, because matplotlib is not installed. To draw them without measuring again: `pip
install -e '.[bench]'`, then `python benchmarks/report.py benchmarks/compare.json`."""

TARGETS: Final = """\
These were set before it was measured, but for one row: “same rate” was added after the first measurements.
A p99 at half load below that of the best peer was demanded. With each at half of its own rate, rankserver
carries many times more commands than the peer, so that alone does not say which of them is quicker at the
same work. Both are shown, and both are counted. Ratios are medians of pairs, and the growth of the cost is
a ratio of medians, as rounds at different numbers of receivers are no pairs; the spread is in the tables
below."""
BEST: Final = """\
A latency target is a ratio to the best peer at that number of receivers, which is named; the ceiling is
no peer, and neither is who lost something there. At the same rate it is the largest of the ratios to all
peers, so it holds only if it holds for each of them."""

THROUGHPUT: Final = """\
One client sends, all others receive; the time runs until the last has the last byte."""
FEWER: Final = """\
A burst has about as many commands as a peer can do in a fixed time, up to a limit for the fast ones. ‡
marks who had fewer than rankserver, because it is slower."""
GENERATOR: Final = """\
The part of a burst for which the generator read and verified, and did not just look whether there was
anything. Close to 100% it is what limits, and not the peer: that is so for the fastest with few receivers
and small commands, where reading and verifying a command takes about as long as sending it."""
FRAMING: Final = """\
Each peer speaks its own protocol, and what it puts around a text differs. The ceiling sends frames of the
same form as rankserver."""

LATENCY: Final = """\
Milliseconds from the time at which a command was due until the *last* receiver has it. Commands are sent
at a steady pace, whether or not those before have arrived: slowly, so that the server sleeps between two
(idle), and at half of the commands per second that the same peer managed in its bursts (half load).

Half load is compared in two ways, as neither says it all. With each at half of its own rate, all servers
are about equally busy, but the fast ones carry many times more commands, each of which may have to wait
for others. At the same rate, rankserver is paced at the half load of each peer in turn, right before or
after it: both do the same work, and the faster one has more time to spare."""

EVERY: Final = """\
All clients send their commands at once, and all hear all. “Order” says whether all clients were sent the
commands in one and the same order, which rankserver promises; where it differs, clients that act on what
they hear may end in different states. ZeroMQ's clients have two connections each, and those of the
servers with asyncio and threads do not hear their own commands."""

COST: Final = """\
Peak memory is that of a burst, and small below it, per million deliveries of that burst. A burst of a slow
peer has up to a hundred times fewer deliveries, so what it needs in any case weighs a hundred times more
there: between peers of different speed compare the peaks."""

LOST: Final = """\
Where a receiver did not get every command once, in its sender's order and with every byte, or where a
server could not do the work at all, the peer is out, and what is shown of it there is from the complete
rounds before."""

MEMBERSHIP: Final = """\
rankserver only: the others have no ranks. Clients join one after the other, and sit idle; then one of
them, 100, or half of all drop their connections at once, and the time runs until the last survivor has
been told. Every client's idea of its rank is checked. Beside it, the time that the ceiling needs to send
one small frame to each of as many sockets."""
CONNECTIONS: Final = """\
What a connection costs each peer. They are made one after the other, until each is ready to receive,
before the rounds; this is measured once. Memory is the server's own, without the kernel's sockets."""

READING: Final = """\
- **The brokers can do more.** Redis, NATS, ZeroMQ and Mosquitto have topics and patterns, and some of
  them persistence, clusters and finer permissions. Here all of them do one thing: everything to
  everybody. Who needs the rest is not helped by these numbers.
- **One CPU for each server.** Those that can use several, such as NATS, would gain from more; so would
  whoever starts several servers.
- **The loopback is no network.** It loses and delays nothing, and its only limit is the machine's memory.
  Over a real network the wire would be the limit sooner, for large commands above all.
- **A burst is not a usual day.** Throughput is how fast a backlog is worked off. With few commands per
  second, look at the latency on an idle server.
- **The high quantiles** are of few commands on an idle server, and at half load of a slow one: with up
  to 1,000 in a round p99.9 is the slowest of them, and with up to 100 so is p99.
- **A ratio to the ceiling can be above 1.** With few receivers and small commands the generator can read
  no faster (¶): then both are as fast as it is, and which of them is ahead is chance. Elsewhere look at the
  spread of the rounds.
- **rankserver and the ceiling also confirm** each command to its sender. The time of a burst runs until
  that has come, too, but it is not counted as a delivery where one client sends. A latency ends when the
  last receiver has the command, whether or not its sender has been told.
- **Not everything was measured everywhere.** Latency at other sizes than 64 bytes only to 100 receivers,
  because a point with latencies takes minutes. Every client a sender only with 64 bytes and up to 1,000
  clients, because the deliveries grow with the square of the clients: 10 commands of each of 5,000 would be
  250 million in a burst. 16,384 bytes not to 5,000 receivers, where 1.5 GB are 18 commands. The server with
  threads only up to 1,000 receivers, because it has a thread for each, and nobody would use it for more.
- **Machines are noisy**, small virtual ones most of all. That is why all take turns and ratios are taken
  pair by pair: compare ratios, not figures of two runs.
- **The asyncio, uvloop and thread servers** are what people write in an afternoon, not the best that
  could be written with them. They are in `benchmarks/servers/`."""

REPEAT: Final = """\
`make bench` installs what it needs and runs it all; this run was `{command}` and took {minutes} minutes.
The program writes this page, the plots in `{plots}/`, and all rounds of all measurements in `{data}`.
`python benchmarks/report.py benchmarks/{data}` writes the page again from those."""
