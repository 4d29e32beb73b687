"""The clients of one run: who connects, what each of them does next, and when it reads."""

from __future__ import annotations

import random
from typing import Any, Final

from simulate.client import Manner, SimClient
from simulate.kernel import Clock, SimListener, Trace
from simulate.link import Link
from simulate.scenario import Scenario
from simulate.truth import Truth

# The manners that those of clients are drawn from.
MANNERS: Final = (Manner.PROMPT,) * 9 + (Manner.SLOW,) * 3 + tuple(Manner)
# More bytes than a client has to send at any time.
EVERYTHING: Final = 1 << 20
# The most bytes that a client reads at a time if it reads at once.
READ_BYTES: Final = 1 << 16
# Bytes of output that the kernel keeps for each client in the calm, however few it kept before.
CALM_ROOM: Final = 1 << 16
# Bytes of unsent lines from which a client composes no more.
MAX_OUTBOX: Final = 3000
# What a client sends that does not begin with HELLO, or with a wrong one.
STRANGE_BEGINNINGS: Final = (b"CMD x", b"\xff", b"HELLO {", b"y" * 3000, b'HELLO {"name":"\\n"}')
# What ends each way to part is called in the trace.
PARTINGS: Final = ("BYE", "half-close", "close", "reset, input lost", "reset")


class Crowd:
    """The clients of one run.

    Attributes:
        clients: all of them, by number, which begins with 1.
        live: those that may still do something.
        steps: how many steps they have taken.
        listener: where they connect.
    """

    def __init__(
        self, rng: random.Random, scenario: Scenario, clock: Clock, trace: Trace, truth: Truth
    ) -> None:
        self.clients: list[SimClient] = []
        self.live: list[SimClient] = []
        self.steps = 0
        self.listener = SimListener(rng)
        self._rng = rng
        self._scenario = scenario
        self._clock = clock
        self._trace = trace
        self._truth = truth

    # --- what the run has them do ---

    def step(self) -> None:
        """Let a new client connect, or one that is here do something."""
        rng = self._rng
        self.steps += 1
        is_listening = not self.listener.is_closed
        if is_listening and (
            not self.live or (len(self.live) < self._scenario.most_clients and rng.random() < 0.15)
        ):
            self._connect()
            return
        if self.live:
            client = rng.choice(self.live)
            self._act(client)
            if client.manner is Manner.SLOW:
                client.read(rng.randrange(1, 400))
            client.link.push(rng.choice((1, 30, 500, 4000)), self._clock.running)

    def read(self, *, everything: bool) -> None:
        """Let those clients read that read at once; or all of them, and send what they have to send."""
        for client in self.live:
            link = client.link
            if everything:
                link.push(EVERYTHING, self._clock.running)
            if everything or client.manner not in (Manner.SLOW, Manner.NEVER):
                client.read(READ_BYTES)
                if everything:
                    link.push(EVERYTHING, self._clock.running)
                if link.has_left and link.has_ended and not link.conn.closed:
                    link.conn.fin = 1
        if everything or self._rng.random() < 0.1:
            self.live = [one for one in self.live if not (one.link.has_ended and one.link.conn.closed)]

    def make_room(self) -> None:
        """Let the kernel keep more output for each client."""
        for client in self.live:
            client.link.conn.room = max(client.link.conn.room, CALM_ROOM)

    # --- what one of them does ---

    def _connect(self) -> None:
        rng = self._rng
        manner = rng.choice(MANNERS)
        number = len(self.clients) + 1
        rank_class = rng.randrange(self._scenario.classes) if self._scenario.classes else 0
        room = rng.choice((20, 200, 2000, 100_000))
        client = SimClient(number, manner, rank_class, Link(room, self._clock.running), self._truth)
        client.expected.asks_are_forgotten = self._scenario.max_asks < 100
        self.clients.append(client)
        self.live.append(client)
        self.listener.waiting.append(client)
        if manner is Manner.STRANGE:
            client.link.say(rng.choice(STRANGE_BEGINNINGS))
        elif manner is not Manner.SILENT:
            fields: dict[str, Any] = {"name": f"n{number}"} if rng.random() < 0.7 else {}
            if self._scenario.classes and rng.random() < 0.95:
                fields["token"] = f"token{rank_class}"
            client.hello(fields)
        client.link.push(rng.choice((1, 20, 500)), self._clock.running)
        self._trace.say(f"{client} connects, class {rank_class}, room {room}")

    def _act(self, client: SimClient) -> None:
        rng, link = self._rng, client.link
        if link.conn.closed or link.conn.reset or link.has_ended:
            client.read(READ_BYTES)
            link.close()
            return
        chance = rng.random()
        if chance < 0.03:
            self._part(client)
        elif link.has_left or client.manner in (Manner.SILENT, Manner.STRANGE):
            if client.manner is Manner.STRANGE and chance < 0.3:
                link.say(b"z" * rng.randrange(900))
        elif len(link.outbox) < MAX_OUTBOX:
            self._compose(client)

    def _compose(self, client: SimClient) -> None:
        rng = self._rng
        chance = rng.random()
        if chance < 0.4:
            for _ in range(rng.choice((1, 1, 3, 20))):
                client.command(rng.choice((0, 3, 30, 200)), wants_answer=rng.random() < 0.25)
        elif chance < 0.6:
            for seq in client.expected.open_asks[-rng.randrange(1, 6) :]:
                client.answer(seq, b' {"by":%d}' % client.number)
        elif chance < 0.65:
            client.answer(self._wrong_ask(client), b"")
        elif chance < 0.75:
            client.who()
        elif chance < 0.85:
            client.ping(rng.choice((0, 20, 100)))
        elif chance < 0.88:
            client.garbage(rng)
        elif client.manner is Manner.ROGUE and chance < 0.92:
            client.link.say(rng.choice((b"HELLO", b"q" * 4000, b"")))

    def _wrong_ask(self, client: SimClient) -> int:
        """Return the seq of an ask that the client has answered, was not there for, or that never was."""
        answered = [*client.expected.answered][-3:]
        first = client.view.first_seq
        asked_before = range(max(first - 5, 1), first)
        wrong: list[int] = [*answered, *asked_before, 1_000_000]
        return self._rng.choice(wrong)

    def _part(self, client: SimClient) -> None:
        how = self._rng.randrange(len(PARTINGS))
        if how == 0 and not client.link.has_left:
            if client.manner not in (Manner.STRANGE, Manner.SILENT):
                client.leave()
        elif how == 1:
            client.link.close_side()
        elif how == 2:
            client.link.close()
        else:
            client.link.reset(lose_input=how == 3)
        self._trace.say(f"{client} parts: {PARTINGS[how]}")
