"""The clients of one run: what each of them does next, and when it reads. ``arrivals`` has who connects."""

from __future__ import annotations

from typing import Final

from simulate import expensive
from simulate.arrivals import Arrivals
from simulate.client import STRANGERS, Manner, SimClient
from simulate.kernel import SimListener
from simulate.reading import EVERYTHING
from simulate.scenario import World
from simulate.truth import Truth

# Bytes of output that the kernel keeps for each client in the calm, however few it kept before.
CALM_ROOM: Final = 1 << 16
# Bytes of unsent lines from which a client composes no more.
MAX_OUTBOX: Final = 3000
# Lines that a client composes at a time if it floods.
FLOOD_LINES: Final = 20
# Share of the steps in which all clients send what they have composed, so that much comes in one turn.
STAMPEDE_SHARE: Final = 0.03
# What each way to part is called in the trace.
PARTINGS: Final = ("BYE", "half-close", "close", "reset, input lost", "reset")
# Lines that a client may not send.
GARBAGE: Final = (
    b"\xff\xfe",
    b"NOPE",
    b"CMD",
    b"CMD ",
    b"CMD \x1b[2J",
    b"CMD a\x00b",
    b"ASK \xc2\x85",
    b"RES x ok",
    b"RES 1 perhaps",
    b"RES 1 ok {",
    b"RES 99999999999999999999 ok",
    b"cmd rm",
    b"CMD\trm",
    b"\xc0\xaf",
    b"LEFT 1 0",
    b"GET / HTTP/1.1",
)


class Crowd:
    """The clients of one run.

    Args:
        world: what surrounds the server.
        truth: what was logged so far.

    Attributes:
        clients: all of them, by number, which begins with 1.
        live: those that may still do something.
        steps: how many steps they have taken.
    """

    def __init__(self, world: World, truth: Truth) -> None:
        self.clients: list[SimClient] = []
        self.live: list[SimClient] = []
        self.steps = 0
        self._rng = world.rng
        self._scenario = world.scenario
        self._trace = world.trace
        self._arrivals = Arrivals(world, truth)
        # What clients compose, each with the chance that it is this or one of those before.
        self._choices = (
            (0.4, self._compose_commands),
            (0.6, self._compose_answers),
            (0.65, lambda client: client.answer(self._wrong_ask(client), b"")),
            (0.75, lambda client: client.who()),
            (0.85, lambda client: client.ping(self._rng.choice((0, 20, 100)))),
            (0.88, lambda client: client.garbage(self._rng.choice(GARBAGE))),
            (0.92, self._compose_roguish),
        )

    @property
    def listeners(self) -> list[SimListener]:
        """Where the clients connect."""
        return self._arrivals.listeners

    # --- what the run has them do ---

    def step(self) -> None:
        """Let a new client connect, or one that is here do something."""
        rng = self._rng
        self.steps += 1
        if self._arrivals.is_open and (
            not self.live or (len(self.live) < self._scenario.most_clients and rng.random() < 0.15)
        ):
            client = self._arrivals.connect(len(self.clients) + 1)
            self.clients.append(client)
            self.live.append(client)
        elif self.live:
            self._act(rng.choice(self.live))
        if rng.random() < STAMPEDE_SHARE:
            for client in self.live:
                client.link.push(EVERYTHING)

    def read(self, *, everything: bool) -> None:
        """Let clients read as much as they read by now; or all of it, and send what they have to send."""
        for client in self.live:
            link = client.link
            if everything:
                link.push(EVERYTHING)
            if most := EVERYTHING if everything else link.due():
                client.read(most)
                if everything:
                    link.push(EVERYTHING)
                if link.has_left and link.has_ended and not link.conn.closed:
                    link.conn.fin = 1
        if everything or self._rng.random() < 0.1:
            self.live = [one for one in self.live if not (one.link.has_ended and one.link.conn.closed)]

    def make_room(self) -> None:
        """Let the kernel keep more output for each client."""
        for client in self.live:
            client.link.conn.room = max(client.link.conn.room, CALM_ROOM)

    # --- what one of them does ---

    def _act(self, client: SimClient) -> None:
        rng, link = self._rng, client.link
        if link.conn.closed or link.conn.reset or link.has_ended:
            client.read(EVERYTHING)
            link.close()
            return
        chance = rng.random()
        if chance < 0.03:
            self._part(client)
        elif link.has_left or client.manner in STRANGERS:
            if client.manner is Manner.STRANGE and chance < 0.3:
                link.say(b"z" * rng.randrange(900))
        elif len(link.outbox) < MAX_OUTBOX:
            self._compose(client)
        if client.manner is Manner.SLOW:
            client.read(rng.randrange(1, 400))
        is_flooding = client.manner in (Manner.FLOODING, Manner.ASKING)
        link.push(EVERYTHING if is_flooding else rng.choice((1, 30, 500, 4000)))

    def _compose(self, client: SimClient) -> None:
        rng = self._rng
        if client.manner in (Manner.FLOODING, Manner.ASKING) and rng.random() < 0.8:
            for _ in range(FLOOD_LINES):
                client.command(rng.choice((0, 30, 200)), wants_answer=client.manner is Manner.ASKING)
            return
        if client.manner is Manner.COSTLY and rng.random() < 0.8:
            self._compose_expensive(client)
            return
        chance = rng.random()
        for limit, compose in self._choices:
            if chance < limit:
                compose(client)
                break

    def _compose_commands(self, client: SimClient) -> None:
        rng = self._rng
        for _ in range(rng.choice((1, 1, 3, 20))):
            client.command(rng.choice((0, 3, 30, 200)), wants_answer=rng.random() < 0.25)

    def _compose_answers(self, client: SimClient) -> None:
        for seq in client.expected.open_asks[-self._rng.randrange(1, 6) :]:
            client.answer(seq, b' {"by":%d}' % client.number)

    def _compose_roguish(self, client: SimClient) -> None:
        if client.manner is Manner.ROGUE:
            client.link.say(self._rng.choice((b"HELLO", b"q" * 4000, b"")))

    def _compose_expensive(self, client: SimClient) -> None:
        """Compose an answer, or a line with an unknown verb, that costs as much as one can."""
        rng = self._rng
        text, is_valid = expensive.value(rng, rng.randrange(self._scenario.config.max_line - 60))
        asks = client.expected.open_asks
        if rng.random() < 0.3:
            client.garbage(b"NOPE " + text.encode())
        elif not is_valid:
            client.garbage(b'RES %d ok {"by":%s}' % (asks[-1] if asks else 1, text.encode()))
        else:
            seq = asks[-1] if asks else self._wrong_ask(client)
            client.answer(seq, b' {"by":%d,"x":%s}' % (client.number, text.encode()))

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
            if client.manner not in STRANGERS:
                client.leave()
        elif how == 1:
            client.link.close_side()
        elif how == 2:
            client.link.close()
        else:
            client.link.reset(lose_input=how == 3)
        self._trace.say(f"{client} parts: {PARTINGS[how]}")
