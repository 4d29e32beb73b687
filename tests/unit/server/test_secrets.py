"""Nothing that a stranger sends is logged: it may be a token that was put in the wrong place."""

from __future__ import annotations

from typing import Final

import pytest

from rankserver import logs
from tests.support.turns import SteppedServer, tokens_by_class

# It may be a name, and shares no four characters with anything else in the log.
SECRET: Final = b"qXzVwKjYgQ-7xZvW_kJyGq"
PLACES: Final = {
    "a token": b'HELLO {"token":"SECRET"}',
    "no space": b'HELLO{"token":"SECRET"}',
    "another white space": b'HELLO\t{"token":"SECRET"}',
    "nothing but the token": b"SECRET",
    "the verb": b'SECRET {"name":"a"}',
    "the JSON": b"HELLO SECRET",
    "a JSON string": b'HELLO "SECRET"',
    "JSON cut off": b'HELLO {"token":"SECRET',
    "behind the JSON": b'HELLO {"name":"a"} SECRET',
    "an escape": b'HELLO {"token":"\\SECRET"}',
    "a key": b'HELLO {"SECRET":1}',
    "a constant": b'HELLO {"token":"SECRET","name":NaN}',
    "a name": b'HELLO {"name":"SECRET"}',
    "a bad name": b'HELLO {"name":"SECRET?"}',
    "a list of names": b'HELLO {"name":["SECRET"]}',
    "a token that is no string": b'HELLO {"token":["SECRET"]}',
    "the version": b'HELLO {"proto":"SECRET"}',
    "tags": b'HELLO {"proto":2,"tags":{"SECRET":"SECRET"}}',
    "the session": b'HELLO {"resume":{"session":"SECRET","seq":1}}',
    "a bad session": b'HELLO {"resume":{"session":"SECRET","seq":"SECRET"}}',
    "a seq": b"RES SECRET ok",
    "a status": b"RES 1 SECRET",
    "an answer": b"RES 1 ok SECRET",
    "a command": b"CMD SECRET",
    "a ping": b"PING SECRET",
    "bad UTF-8": b"HELLO SECRET\xff",
    "a control character": b"HELLO SECRET\x00",
    "a line that does not end": b'HELLO {"token":"SECRET"',
    "a line that is too long": b"SECRET" * 4000,
}


pytestmark = pytest.mark.usefixtures("logger")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("place", PLACES)
def test_no_part_of_what_a_stranger_sends_is_logged(
    place: str, log_format: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("debug", log_format)
    with SteppedServer(1, tokens=tokens_by_class(0), handshake_timeout=5) as stepped:
        stranger = stepped.connect("192.0.2.1:4711")
        stranger.send(PLACES[place].replace(b"SECRET", SECRET) + b"\n" * (not place.endswith("not end")))
        stepped.wait(10)
        assert not stepped.loop.channels or stranger.channel.is_going
        sent = stranger.received()
    logged = capfd.readouterr().err.encode()
    assert b"refused" in logged
    assert not parts(SECRET) & parts(logged)
    assert not parts(SECRET) & parts(sent)


def test_the_name_of_a_client_that_finds_no_place_is_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json")
    with SteppedServer(1) as stepped:
        stepped.join()
        stranger = stepped.connect()
        stranger.send(b'HELLO {"name":"%s"}\n' % SECRET)
        stepped.turn()
        assert b"BYE full " in stranger.received()
    logged = capfd.readouterr().err
    assert '"refused"' in logged
    assert not parts(SECRET) & parts(logged.encode())


def parts(text: bytes) -> set[bytes]:
    """Return everything in a text that is four bytes long."""
    return {text[at : at + 4] for at in range(len(text) - 3)}
