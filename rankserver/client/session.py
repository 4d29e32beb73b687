"""The client's side of the protocol, without I/O: bytes in, events and bytes to send out.

It knows no socket and no clock; ``connection`` moves the bytes. The states of a session::

    GREETING --INFO--> JOINING --WELCOME--> JOINED
        |                 |                   |
        +-----------------+-------------------+----> OVER: BYE, end of stream, broken protocol, leave()

``hello`` may be called in GREETING and JOINING; ``ask``, ``cmd``, ``result``, ``who`` and ``ping`` in JOINED;
``leave`` always. What arrives once the session is over is ignored.

``log_view`` derives everything that follows from the log, such as our rank and who can still answer an ASK.

The log contains no names, but a client that leaves without answering an ASK should be reported by name. So if
any name is unknown, we send a WHO before an ASK, and another one when the ASK is logged if somebody has
joined in between.

Source: docs/protocol.md.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from rankserver.client import events, results
from rankserver.client.log_view import LogFrame, LogView, Submission, broken
from rankserver.client.rosters import RosterRequest, Rosters
from rankserver.wire import codes, frames, grammar, lines, protocol
from rankserver.wire.exceptions import LocalProtocolError, RemoteProtocolError

# The most bytes in the first line, which may come from any kind of server. A banner has about a hundred.
MAX_FIRST_LINE: Final = 65_536
# The most bytes of answers, to PING and to ASK, that may wait to be sent. A server that waits for another
# client does not read for a while: this is room for thousands of outputs, or millions of refusals.
MAX_UNSENT_ANSWERS: Final = 256 * 1024 * 1024
# The shortest heartbeat that we accept, in seconds: we may have to wake up and send a PING for each.
MIN_HEARTBEAT: Final = 0.001
# The longest heartbeat that we accept, in seconds: more than a century, and every clock can wait that long.
MAX_HEARTBEAT: Final = 4e9
# Used until the INFO arrives.
NO_INFO: Final = frames.InfoFrame(frames.VERSION, "", protocol.DEFAULT_MAX_LINE, auth=False, capacity=0)


class SessionState(enum.Enum):
    """The states of a session; the module docstring has the transitions."""

    GREETING = "greeting"
    JOINING = "joining"
    JOINED = "joined"
    OVER = "over"


class Session:
    """The protocol as one client sees it.

    After every call, send what ``data_to_send`` returns: receiving can also produce something to send.

    Attributes:
        state: the current state.
        info: what the server has announced, such as the longest line that it accepts.
        log: what we know from the log; empty before WELCOME.
        heartbeat: seconds of silence after which the server asks whether we are there; 0 for never.
        cut_off: the seqs of our ASKs that were open when the connection ended. Their missing answers are
            reported as ``gone``, but the real outcome is unknown.
    """

    def __init__(self) -> None:
        self.state = SessionState.GREETING
        self.info = NO_INFO
        self.log = LogView()
        self.heartbeat = 0.0
        self.cut_off: frozenset[int] = frozenset()
        self._lines = lines.LineBuffer(MAX_FIRST_LINE)
        self._out = bytearray()
        # How many bytes of ``_out`` answer what the server has asked.
        self._unsent_answers = 0
        # Our HELLO without and with the token, while we wait for the banner to say which one to send.
        self._hellos: tuple[bytes, bytes] | None = None
        self._rosters = Rosters()

    @property
    def unsent(self) -> int:
        """The number of bytes that ``data_to_send`` would return."""
        return len(self._out)

    @property
    def unanswered(self) -> list[object]:
        """The handles of all commands that are not in the log and of all WHOs without a roster.

        Once the session is over, they will never be answered.
        """
        commands = [submission.handle for submission in self.log.submitted]
        return commands + [request.handle for request in self._rosters.requests]

    def data_to_send(self) -> bytes:
        """Return what must be sent now; it counts as sent."""
        data = bytes(self._out)
        self._out.clear()
        self._unsent_answers = 0
        return data

    # --- to the server ---

    def hello(self, *, name: str | None = None, token: str | None = None) -> None:
        """Join, under ``name`` or under a name that the server chooses. Call it once, before anything else.

        With a token, nothing is sent until the banner has said whether the server needs one, and the token is
        sent only if it does.

        Args:
            name: our name.
            token: the token, for a server that requires one.

        Raises:
            LocalProtocolError: the protocol does not allow this name, or the session has joined or is over.
        """
        if self.state not in (SessionState.GREETING, SessionState.JOINING):
            raise LocalProtocolError(codes.PROTO, f"cannot join: the session is {self.state.value}")
        hello = protocol.hello(name=name)
        if token is None:
            self._out += hello
            return
        self._hellos = hello, protocol.hello(name=name, token=token)
        if self.state is SessionState.JOINING:
            self._send_hello(self._hellos)

    def _send_hello(self, hellos: tuple[bytes, bytes]) -> None:
        without_token, with_token = hellos
        self._out += with_token if self.info.auth else without_token
        self._hellos = None

    def ask(self, text: str, handle: object = None) -> None:
        """Broadcast a command whose outcome we want to know.

        ``Sent``, an ``Answer`` from each target and ``AskDone`` follow.

        Args:
            text: the command.
            handle: anything; ``Sent``, ``Rejected`` or ``Lost`` will carry it.

        Raises:
            LocalProtocolError: the protocol does not allow ``text``, or the state is not JOINED. Nothing was
                sent.
        """
        self._submit(text, handle, wants_answer=True)

    def cmd(self, text: str, handle: object = None) -> None:
        """Broadcast a command that nobody answers: ``Sent`` follows. Arguments and errors as for ``ask``."""
        self._submit(text, handle, wants_answer=False)

    def result(self, seq: int, outcome: events.Outcome) -> None:
        """Answer the ``Execute`` with number ``seq``, once. If ``out`` is too long, its end is cut off.

        Raises:
            LocalProtocolError: the outcome has no known status or is not JSON, the frame is too long even
                without ``out``, or the state is not JOINED. Nothing was sent.
        """
        self._check_joined()
        self._answer(results.encode(seq, outcome, self.info.max_line))

    def expire(self, seq: int) -> list[events.Event]:
        """Stop waiting for answers to our ASK ``seq``: missing answers count as ``timeout``.

        Returns:
            The answers and ``AskDone`` that follow; nothing if the ASK is done already.
        """
        return self.log.expire(seq)

    def who(self, handle: object = None) -> None:
        """Ask for the roster: ``RosterReceived``, which carries ``handle``, follows.

        Raises:
            LocalProtocolError: the state is not JOINED.
        """
        self._check_joined()
        self._send_who(RosterRequest(is_wanted=True, handle=handle))

    def ping(self) -> None:
        """Ask whether the server is there; its answer gives no event.

        Raises:
            LocalProtocolError: the state is not JOINED.
        """
        self._check_joined()
        self._out += protocol.ping()

    def leave(self) -> None:
        """Say goodbye: everything sent before still counts, and no event follows. May be called again."""
        if self.state is not SessionState.OVER:
            self.state = SessionState.OVER
            self._out += protocol.leave()

    def _submit(self, text: str, handle: object, *, wants_answer: bool) -> None:
        self._check_joined()
        frame = protocol.submit(text, wants_answer=wants_answer, max_line=self.info.max_line)
        if wants_answer:
            self._learn_names()
        self._out += frame
        self.log.submitted.append(Submission(text, handle))

    def _send_who(self, request: RosterRequest) -> None:
        self._out += protocol.who()
        self._rosters.requests.append(request)

    def _learn_names(self) -> None:
        if self.log.lacks_names and not self._rosters.requests:
            self._send_who(RosterRequest(is_wanted=False, handle=None))

    def _check_joined(self) -> None:
        if self.state is not SessionState.JOINED:
            raise LocalProtocolError(codes.PROTO, f"cannot send: the session is {self.state.value}")

    # --- from the server ---

    def receive_data(self, data: bytes) -> list[events.Event]:
        """Take bytes from the server, split anywhere, and return what they mean.

        O(len(data)), except that each client costs an ASK that waited for it one ``Answer`` when it leaves.
        """
        happened: list[events.Event] = []
        try:
            for line in self._lines.cut(data) if self.state is not SessionState.OVER else ():
                happened += self._receive_line(line)
                if self.state is SessionState.OVER:
                    break
        except RemoteProtocolError as error:
            happened += self._disconnect("", f"the server broke the protocol: {error.text}")
        return happened

    def receive_eof(self, reason: str = "connection lost") -> list[events.Event]:
        """Take the end of the stream, whether orderly or not, and return what it means."""
        return [] if self.state is SessionState.OVER else self._disconnect("", reason)

    def _disconnect(self, code: str, text: str) -> list[events.Event]:
        self.state = SessionState.OVER
        self.cut_off = self.log.open_asks
        return [*self.log.disconnect(), events.Disconnected(code, text)]

    def _receive_line(self, line: bytes) -> list[events.Event]:
        if self._unsent_answers > MAX_UNSENT_ANSWERS:
            raise broken("it asks, and does not read our answers")
        if self.state is SessionState.GREETING:
            return self._receive_banner(line)
        frame = protocol.parse_server_line(line)
        receive = self._RECEIVERS.get(type(frame))
        return receive(self, frame) if receive else []

    def _receive_banner(self, line: bytes) -> list[events.Event]:
        try:
            frame = protocol.parse_server_line(line)
        except RemoteProtocolError:
            frame = None
        if isinstance(frame, frames.ByeFrame):
            return self._disconnect(*frame)
        if not isinstance(frame, frames.InfoFrame):
            said = grammar.shown(line.decode(errors="replace"))
            return self._disconnect("", f"this is not a rankserver: it says {said}")
        if frame.proto != frames.VERSION:
            text = f"the server speaks protocol {frame.proto}, this client speaks {frames.VERSION}"
            return self._disconnect("", text)
        if not protocol.MIN_MAX_LINE <= frame.max_line <= protocol.MAX_MAX_LINE:
            least, most = protocol.MIN_MAX_LINE, protocol.MAX_MAX_LINE
            raise broken(f"INFO with a max_line of {frame.max_line}, which is not from {least} to {most}")
        self.info = frame
        self.state = SessionState.JOINING
        self._lines.max_line = frame.max_line + protocol.MAX_SERVER_SLACK
        if self._hellos is not None:
            self._send_hello(self._hellos)
        return []

    def _receive_welcome(self, frame: frames.WelcomeFrame) -> list[events.Event]:
        if self.state is not SessionState.JOINING:
            raise broken("a second WELCOME")
        if not frame.rank < frame.clients <= grammar.MAX_CLIENTS:
            raise broken(f"WELCOME with rank {frame.rank} of {frame.clients}")
        if frame.heartbeat and not MIN_HEARTBEAT <= frame.heartbeat <= MAX_HEARTBEAT:
            raise broken(f"WELCOME with a heartbeat of {frame.heartbeat:g} seconds")
        self.state = SessionState.JOINED
        self.heartbeat = frame.heartbeat
        self.log = LogView(frame)
        return [self.log.place]

    def _receive_log(self, frame: LogFrame) -> list[events.Event]:
        if self.state is not SessionState.JOINED:
            raise broken("a log frame before WELCOME")
        happened = self.log.receive(frame)
        if isinstance(frame, frames.CommandFrame) and frame.wants_answer:
            if isinstance(happened[0], events.Refused):
                self._answer(protocol.result(frame.seq, "refused"))
            elif isinstance(happened[0], events.Sent):
                self._learn_names()
        return happened

    def _receive_roster(self, frame: frames.RosterFrame) -> list[events.Event]:
        if self.state is not SessionState.JOINED:
            raise broken("a ROSTER before WELCOME")
        roster = self._rosters.receive(frame, self.log.clients)
        if roster is None:
            return []
        self.log.learn(roster)
        request = self._rosters.requests.popleft() if self._rosters.requests else None
        return [events.RosterReceived(roster, request.handle)] if request and request.is_wanted else []

    def _receive_err(self, frame: frames.ErrFrame) -> list[events.Event]:
        """Find out what was rejected: our lines are handled in order, so it is the oldest command."""
        if self.state is not SessionState.JOINED:
            raise broken("an ERR before WELCOME")
        if frame.code != codes.NO_SUCH_ASK and self.log.submitted:
            return [events.Rejected(*frame, *self.log.submitted.popleft())]
        return [events.Rejected(*frame, command=None)]

    def _receive_ping(self, frame: frames.Ping) -> list[events.Event]:
        self._answer(protocol.pong(frame.text))
        return []

    def _answer(self, line: bytes) -> None:
        self._out += line
        self._unsent_answers += len(line)

    # PONG and a second INFO say nothing new.
    _RECEIVERS: ClassVar[Mapping[type, Callable[[Session, Any], list[events.Event]]]] = {
        frames.WelcomeFrame: _receive_welcome,
        frames.CommandFrame: _receive_log,
        frames.JoinFrame: _receive_log,
        frames.LeftFrame: _receive_log,
        frames.AnswerFrame: lambda self, frame: self.log.answer(frame),
        frames.DroppedFrame: lambda self, frame: self.log.drop(frame.seq),
        frames.RosterFrame: _receive_roster,
        frames.ErrFrame: _receive_err,
        frames.ByeFrame: lambda self, frame: self._disconnect(*frame),
        frames.Ping: _receive_ping,
    }
