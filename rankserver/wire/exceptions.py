"""Every exception that this project raises on purpose.

RankserverError
├── ConfigError            an option has an unusable value (exit code 2)
├── ListenError            an address cannot be listened on (exit code 1)
├── ConnectError           no server answers at an address (the client's exit code 3)
├── DisconnectedError      the server refused or ended the connection (the client's exit code 4)
├── StreamError            standard input or output cannot be used (exit code 1)
├── InputError             bytes are not an encoded input of the order
├── NoSuchAskError         an answer is for an ASK that is not waiting for it
└── ProtocolError          a frame breaks the protocol; has a code and a text
    ├── LocalProtocolError     we were asked to send it
    └── RemoteProtocolError    the other side sent it
"""


class RankserverError(Exception):
    """Base of all exceptions of this project."""


class ConfigError(RankserverError):
    """An option has an unusable value; the message names both."""


class ListenError(RankserverError):
    """An address cannot be listened on; the message names it and says why."""


class ConnectError(RankserverError):
    """No server answers at an address; the message names it and says why."""


class InsecureError(ConnectError):
    """A token would travel over a network without TLS; the message says to where, and what helps."""


class DisconnectedError(RankserverError):
    """The server refused or ended the connection.

    Attributes:
        code: the code of the server's BYE (docs/protocol.md, "Codes"); empty if it sent none.
        text: one line for a person.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code} {text}".lstrip())
        self.code = code
        self.text = text


class StreamError(RankserverError):
    """Standard input or output cannot be used; the message says which and why."""


class InputError(RankserverError):
    """Bytes are not an encoded input (see ``rankserver.inputs``); the message says why."""


class NoSuchAskError(RankserverError):
    """The seq is not that of an ASK, or not of one that this client may answer."""


class ProtocolError(RankserverError):
    """A frame breaks the protocol.

    Attributes:
        code: the protocol's word for what is wrong, such as ``bad-frame`` (docs/protocol.md, "Codes").
        text: one line for a person.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class LocalProtocolError(ProtocolError):
    """We were asked to send a frame that the protocol forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side sent a frame that the protocol forbids."""
