"""A simple model of the C core in plain Python: the oracle of its tests.

A cursor's stream is a list of frames in the order in which they are sent, and its input is all of its bytes
that are not handled yet. Nothing is shared, nothing is freed, and every query is answered by looking through
the lists.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rankserver.wire import codes, grammar
from rankserver.wire.exceptions import RemoteProtocolError

COMMAND: Final = b"CMD "

# The most bytes that are read and kept from a cursor before it is attached.
FRESH_BYTES: Final = 65_536


def keeps_text_rule(line: bytes) -> bool:
    """Return whether the bytes of a line keep the text rule, according to the Python implementation."""
    try:
        grammar.decode_line(line)
    except RemoteProtocolError:
        return False
    return True


def is_command(line: bytes) -> bool:
    """Return whether the core itself logs this line of a member."""
    return line.startswith(COMMAND) and line != COMMAND and keeps_text_rule(line)


class StreamFrame(NamedTuple):
    """A frame of a cursor's stream, and the position that must be published before it is sent."""

    frame: bytes
    position: int


class ModelMember:
    """A place in the ranks."""

    def __init__(self, number: int, rank_class: int) -> None:
        self.number = number
        self.rank_class = rank_class
        self.cursor: ModelCursor | None = None


class ModelCursor:
    """All frames that a cursor is sent, from the first to the last, and its input."""

    def __init__(self, *, retains: bool = False) -> None:
        self.frames: list[StreamFrame] = []
        # The position in the log at which its part begins.
        self.start = 0
        # The position at which its part ends; None while it is attached.
        self.limit: int | None = 0
        self.member: ModelMember | None = None
        self.was_attached = False
        self.retains = retains
        self.is_muted = False
        self.input = b""
        # Whether any input is not handled yet.
        self.has_input = False
        # The line last handed over, which may be brought back, as it came.
        self.last_line = b""
        self.is_ignored = False

    @property
    def stream(self) -> bytes:
        """All bytes of the frames."""
        return b"".join(sent.frame for sent in self.frames)

    def begun(self, sent: int) -> int:
        """Return how many frames have begun once ``sent`` bytes are sent."""
        begins = 0
        for count, (frame, _) in enumerate(self.frames):
            if begins >= sent:
                return count
            begins += len(frame)
        return len(self.frames)


class ModelLog:
    """A log whose ranks are a list, and which copies each logged frame to every attached cursor."""

    def __init__(self, max_line: int) -> None:
        self.max_line = max_line
        self.members: list[ModelMember] = []
        self.attached: list[ModelCursor] = []
        self.logged: list[bytes] = []
        # The position behind each frame; frame 0 stands for the beginning.
        self.ends = [0]
        self.published: int | None = None

    @property
    def seq(self) -> int:
        return len(self.logged)

    # --- members and cursors ---

    def join(self, number: int, rank_class: int = 0) -> ModelMember:
        member = ModelMember(number, rank_class)
        self.members.append(member)
        self.members.sort(key=lambda other: other.rank_class)
        return member

    def leave(self, member: ModelMember) -> None:
        if member.cursor:
            self.detach(member.cursor)
        self.members.remove(member)

    def attach(self, cursor: ModelCursor, member: ModelMember | None, seq: int, sent: int = 0) -> None:
        """Attach a cursor that was sent ``sent`` bytes so far."""
        cursor.was_attached = True
        cursor.member = member
        if member:
            member.cursor = cursor
        self.attached.append(cursor)
        if cursor.is_muted:
            return
        cursor.start = self.ends[seq]
        cursor.limit = None
        done = cursor.begun(sent)
        if len(b"".join(frame for frame, _ in cursor.frames[:done])) > sent:
            done -= 1
        cursor.frames[done:] = [StreamFrame(frame, self.ends[seq]) for frame, _ in cursor.frames[done:]]
        cursor.frames += [StreamFrame(self.logged[at], self.ends[at + 1]) for at in range(seq, self.seq)]

    def detach(self, cursor: ModelCursor) -> None:
        self.attached.remove(cursor)
        if cursor.member:
            cursor.member.cursor = None
            cursor.member = None
        if not cursor.is_muted:
            cursor.limit = self.ends[-1]

    def cut(self, cursor: ModelCursor, sent: int) -> None:
        """Cut a cursor that was sent ``sent`` bytes so far: no further frame begins."""
        if cursor in self.attached:
            self.detach(cursor)
        del cursor.frames[cursor.begun(sent) :]
        cursor.limit = max([cursor.start, *(frame.position for frame in cursor.frames)])

    def mute(self, cursor: ModelCursor, sent: int) -> None:
        """Send no more to a cursor that was sent ``sent`` bytes so far."""
        cursor.frames = [StreamFrame(cursor.stream[:sent], 0)]
        cursor.is_muted = True

    # --- output ---

    def private(self, cursor: ModelCursor, frame: bytes) -> None:
        if not cursor.is_muted:
            due = self.ends[-1] if cursor.limit is None else cursor.limit
            cursor.frames.append(StreamFrame(frame, due))

    def append(self, verb: bytes, text: bytes) -> int:
        frame = b"%s %d %s\n" % (verb, self.seq + 1, text)
        self.logged.append(frame)
        self.ends.append(self.ends[-1] + len(frame))
        for cursor in self.attached:
            if not cursor.is_muted:
                cursor.frames.append(StreamFrame(frame, self.ends[-1]))
        return self.seq

    def sendable(self, cursor: ModelCursor) -> int:
        """Return how many bytes of the stream may be sent so far."""
        size = 0
        for frame, position in cursor.frames:
            if self.published is not None and position > self.published and not cursor.retains:
                break
            size += len(frame)
        return size

    # --- input ---

    def take(self, cursor: ModelCursor, data: bytes) -> None:
        assert not cursor.has_input
        if not cursor.is_ignored:
            cursor.input += data
            cursor.has_input = bool(data)

    def next_line(self, cursor: ModelCursor, *, logs: bool = True) -> bytes | None:
        """Log the commands at the start of the input; stop after the first other line."""
        if not cursor.has_input:
            return None
        cursor.last_line = b""
        while (end := cursor.input.find(b"\n")) >= 0:
            if end + 1 > self.longest_line(cursor):
                raise self._too_long(cursor)
            cursor.last_line = cursor.input[: end + 1]
            line = cursor.input[:end].removesuffix(b"\r")
            cursor.input = cursor.input[end + 1 :]
            if cursor.member and logs and is_command(line):
                self._log(cursor.member, line)
            elif line:
                return line
        cursor.last_line = b""
        if len(cursor.input) >= self.longest_line(cursor):
            raise self._too_long(cursor)
        cursor.has_input = False
        return None

    def collect(self, cursor: ModelCursor) -> bytes:
        """Take the commands at the start of the input, with the empty lines before the last of them."""
        if not cursor.has_input:
            return b""
        cursor.last_line = b""
        batch = 0
        at = 0
        while cursor.member and (end := cursor.input.find(b"\n", at)) >= 0:
            line = cursor.input[at:end].removesuffix(b"\r")
            if end + 1 - at > self.max_line or (line and not is_command(line)):
                break
            at = end + 1
            batch = at if line else batch
        collected, cursor.input = cursor.input[:batch], cursor.input[batch:]
        cursor.has_input = bool(cursor.input)
        return collected

    def apply(self, member: ModelMember, batch: bytes) -> None:
        for line in batch.split(b"\n"):
            if command := line.removesuffix(b"\r"):
                self._log(member, command)

    def unread(self, cursor: ModelCursor) -> None:
        cursor.input = cursor.last_line + cursor.input
        cursor.last_line = b""

    def longest_line(self, cursor: ModelCursor) -> int:
        return self.max_line if cursor.was_attached else min(self.max_line, FRESH_BYTES)

    def ignore(self, cursor: ModelCursor) -> None:
        cursor.input = cursor.last_line = b""
        cursor.has_input = False
        cursor.is_ignored = True

    def _log(self, member: ModelMember, line: bytes) -> None:
        self.append(b"CMD", b"%d %s" % (self.members.index(member), line.removeprefix(COMMAND)))

    def _too_long(self, cursor: ModelCursor) -> RemoteProtocolError:
        return RemoteProtocolError(codes.TOO_LONG, f"a line is longer than {self.longest_line(cursor)} bytes")
