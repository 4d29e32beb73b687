"""Commands that flow at full speed, each with its own bytes, and consumers that check all of them."""

from __future__ import annotations

import selectors
from typing import TYPE_CHECKING, Final

from tests.abuse.clients import MAX_READ, NOT_NOW, LineClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

# The bytes that a producer prepares at a time.
PRODUCED: Final = 256 * 1024

# Seconds to wait until a socket is ready.
TURN: Final = 0.005


class Producer:
    """Sends commands as fast as the server takes them, each with its own number and bytes.

    Attributes:
        sent: the number of commands whose sending has begun.
        size: the bytes of each command.
    """

    def __init__(self, client: LineClient, number: int, size: int) -> None:
        self.client = client
        self.size = size
        self.sent = 0
        self._number = number
        self._data = memoryview(b"")
        client.sock.setblocking(False)

    def text(self, count: int) -> bytes:
        """Return a command, all parts of which differ from those of all others."""
        head = b"#%d %d " % (self._number, count)
        return (head * (self.size // len(head) + 1))[: self.size]

    def send(self, *, more: bool = True) -> bool:
        """Send what the server takes; return whether no command is left half sent."""
        if not self._data and more:
            count = PRODUCED // self.size
            texts = map(self.text, range(self.sent, self.sent + count))
            self._data = memoryview(b"".join(map(self.client.subject.command, texts)))
            self.sent += count
        try:
            self._data = self._data[self.client.sock.send(self._data) :]
        except NOT_NOW:
            pass
        except OSError:
            self.client.ended = True
        return not self._data or self.client.ended


def discard(client: LineClient, most: int = MAX_READ) -> int:
    """Read once, up to ``most`` bytes, without handling them; return how many there were."""
    try:
        count = len(client.sock.recv(most))
    except NOT_NOW:
        return 0
    except OSError:
        count = 0
    if not count:
        client.ended = True
    return count


class Consumer(LineClient):
    """Reads bit by bit, and checks each byte against what its producer sends.

    Attributes:
        counts: the number of commands from each producer.
        wrong: whether any command was not the next of its producer.
    """

    def follow(self, producers: list[Producer]) -> None:
        """Expect the commands of these producers."""
        self.producers = producers
        self.counts = [0] * len(producers)
        self.wrong = False

    def read_now(self, part: int) -> None:
        """Read up to ``part`` bytes that are there, without waiting."""
        if not self.ended:
            self.sock.setblocking(False)
            self.read(part)

    def take(self, lines: list[bytes]) -> None:
        for text in self.subject.texts(lines):
            number = int(text[1 : text.index(b" ")])
            if text != self.producers[number].text(self.counts[number]):
                self.wrong = True
            self.counts[number] += 1


class Pump:
    """Lets producers send and readers read whenever they can, turn by turn.

    Attributes:
        more: whether producers prepare further commands when all theirs are sent.
    """

    def __init__(self, senders: Sequence[Producer], readers: Sequence[LineClient] = ()) -> None:
        self.more = True
        self._selector = selectors.DefaultSelector()
        for sender in senders:
            if not sender.client.ended:
                self._selector.register(
                    sender.client.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, sender
                )
        for reader in readers:
            if not reader.ended:
                reader.sock.setblocking(False)
                self._selector.register(reader.sock, selectors.EVENT_READ, reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._selector.close()

    def turn(self) -> None:
        """Let each socket that is ready send or read once."""
        for key, events in self._selector.select(TURN):
            one = key.data
            if isinstance(one, LineClient):
                one.read()
                ended = one.ended
            else:
                if events & selectors.EVENT_READ:
                    discard(one.client)
                if events & selectors.EVENT_WRITE and one.send(more=self.more) and not self.more:
                    self._selector.modify(key.fileobj, selectors.EVENT_READ, one)
                ended = one.client.ended
            if ended:
                self._selector.unregister(key.fileobj)
                (one if isinstance(one, LineClient) else one.client).close()
