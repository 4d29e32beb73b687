"""Tokens: who may join, and in which class. Pure but for reading the file.

A token file has one token a line: ``name[:class] sha256-of-token`` in hexadecimal digits, or a bare token,
which is one word, not of 64 such digits, and has class 0. A lower class ranks above. Empty lines and lines
with ``#`` first are none.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from typing import Final, NamedTuple

from rankserver.wire import protocol
from rankserver.wire.exceptions import ConfigError

MAX_CLASS: Final = 0xFFFF_FFFF
TOKEN_BYTES: Final = 32  # of randomness in a new token
KEY_BYTES: Final = 32  # of the key that tokens are looked up under: as many as the digest has
BARE: Final = "-"  # the name of a token that stands in the file without one

# A name here has no colon: what stands behind one is a class, or the line is refused. If it were taken for a
# part of the name, a class that is mistyped would become 0, the highest.
_HOLDER: Final = re.compile(r"(?P<name>[^\s:]+)(?::(?P<rank_class>[0-9]{1,10}))?")
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Holder(NamedTuple):
    """Whom a token belongs to, and the class that it gives."""

    name: str
    rank_class: int


NO_TOKEN: Final = Holder("", 0)  # of who needs none


class Tokens:
    """The tokens that are accepted.

    They are looked up by a digest under a random key that never leaves this object. So the time of a look-up
    tells nothing that helps to guess: whoever does not know the key cannot choose what is compared, nor know
    from one try what another one compares.

    Args:
        digests: SHA-256 of each token, with its holder.
    """

    def __init__(self, digests: dict[bytes, Holder]) -> None:
        self._key = secrets.token_bytes(KEY_BYTES)
        self._holders = {self._keyed(digest): holder for digest, holder in digests.items()}

    def __len__(self) -> int:
        return len(self._holders)

    def holder(self, token: str) -> Holder | None:
        """Return whose token this is, None if it is nobody's. O(1), however many there are."""
        return self._holders.get(self._keyed(_digest(token)))

    def _keyed(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=KEY_BYTES).digest()


def load(path: str) -> Tokens:
    """Read a token file.

    Raises:
        ConfigError: it cannot be read, it is no regular file, others may read or write it, or a line is none.
            No token is named.
    """
    try:
        with open(path, encoding="utf-8-sig", opener=_open) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):  # a FIFO, say: whoever writes to it may take any time, or never end
                raise ConfigError(f"the token file {path} is not a regular file")
            lines = file.read().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the token file {path} is not UTF-8") from None
    if mode & stat.S_IRWXO:
        raise ConfigError(f"the token file {path} is open to others (mode {mode & 0o777:o}): chmod o= {path}")
    digests: dict[bytes, Holder] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line and not line.startswith("#"):
            digest, holder = _parse(line, f"line {number} of the token file {path}")
            if digest in digests:
                raise ConfigError(f"line {number} of the token file {path} has a token for the second time")
            digests[digest] = holder
    if not digests:
        raise ConfigError(f"the token file {path} holds no token: nobody could join")
    return Tokens(digests)


def new(text: str) -> tuple[str, str]:
    """Return a new token and its line for the file.

    Args:
        text: the name of its holder, with ``:`` and a class behind it if that is not 0.

    Raises:
        ConfigError: it is no ``name[:class]``.
    """
    _parse_holder(text, f"argument --new-token: {protocol.shown(text)}")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, f"{text} {_digest(token).hex()}"


def _open(path: str, flags: int) -> int:
    """Open without waiting for anybody: a server that reads its files again has clients meanwhile."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _parse(line: str, where: str) -> tuple[bytes, Holder]:
    """Parse one line; what it says is not in the message of an error, as it may be a token."""
    words = line.split()
    if _DIGEST.fullmatch(line):  # as a bare token it would let in whoever has seen it, and it is no secret
        raise ConfigError(
            f"{where} is 64 hexadecimal digits alone: a SHA-256 needs name[:class] before it, "
            "and a token of this form is given as name[:class] and its own SHA-256"
        )
    if len(words) == 1:
        return _digest(line), Holder(BARE, 0)
    if len(words) != 2 or not _DIGEST.fullmatch(words[1]):
        raise ConfigError(f"{where} is neither one token nor name[:class] and 64 hexadecimal digits")
    return bytes.fromhex(words[1]), _parse_holder(words[0], where)


def _parse_holder(text: str, where: str) -> Holder:
    match = _HOLDER.fullmatch(text)
    if not (match and protocol.is_name(match["name"])):
        raise ConfigError(
            f"{where} is no name[:class]: 1 to 64 characters of A-Z a-z 0-9 . _ @ -, and a whole number"
        )
    rank_class = int(match["rank_class"] or 0)
    if rank_class > MAX_CLASS:
        raise ConfigError(f"{where} has class {rank_class}, which is not from 0 to {MAX_CLASS}")
    return Holder(match["name"], rank_class)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
