"""Tokens: who may join, and in which class. Pure, except that ``token_file`` reads the file.

A token file has one token per line: ``name[:class] sha256-of-token`` in hexadecimal digits, or a bare token,
which is a single word and has class 0. A lower class ranks above. Empty lines and lines that begin with ``#``
are ignored. A line of 64 hexadecimal digits alone is rejected: it is probably a SHA-256 without its name.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final, NamedTuple

from rankserver.token_file import read_token_file
from rankserver.wire import grammar
from rankserver.wire.exceptions import ConfigError

# The largest class: the C core keeps it in 32 bits, unsigned.
MAX_CLASS: Final = 0xFFFF_FFFF
# Random bytes in a new token: too many to be guessed, or found from the token's SHA-256.
TOKEN_BYTES: Final = 32
# Bytes in the key for look-ups, and in the digests made with it: the same number as in a SHA-256.
KEY_BYTES: Final = 32
# The holder name of a bare token.
BARE: Final = "-"

# A name has no colon here: whatever follows one must be a class. If it could be part of the name, a mistyped
# class would silently become 0, the highest.
_HOLDER: Final = re.compile(r"(?P<name>[^\s:]+)(?::(?P<rank_class>[0-9]{1,10}))?")
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")


class Holder(NamedTuple):
    """The holder of a token, and the class that the token grants."""

    name: str
    rank_class: int


# The holder of a client that needs no token.
NO_TOKEN: Final = Holder("", 0)


class Tokens:
    """The tokens that are accepted.

    Tokens are looked up by a digest under a random key that never leaves this object. The time of a look-up
    therefore reveals nothing that helps to guess a token: without the key, nobody can choose what is
    compared, or infer from one attempt what the next one compares.

    Args:
        digests: the SHA-256 of each token, with its holder.
    """

    def __init__(self, digests: dict[bytes, Holder]) -> None:
        self._key = secrets.token_bytes(KEY_BYTES)
        self._holders = {self._keyed(digest): holder for digest, holder in digests.items()}

    def __len__(self) -> int:
        return len(self._holders)

    def holder(self, token: str) -> Holder | None:
        """Return the holder of a token, or None if it is not accepted. O(1), however many there are."""
        return self._holders.get(self._keyed(_digest(token)))

    def _keyed(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=KEY_BYTES).digest()


def load(path: str) -> Tokens:
    """Read a token file.

    Raises:
        ConfigError: the file cannot be read, is not a regular file, is open to others, or has a bad line.
            The message never contains a token.
    """
    lines = read_token_file(path).splitlines()
    digests: dict[bytes, Holder] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line and not line.startswith("#"):
            digest, holder = _parse(line, f"line {number} of the token file {path}")
            if digest in digests:
                raise ConfigError(f"line {number} of the token file {path} repeats an earlier token")
            digests[digest] = holder
    if not digests:
        raise ConfigError(f"the token file {path} contains no token: nobody could join")
    return Tokens(digests)


def new(text: str) -> tuple[str, str]:
    """Return a new token and its line for the file.

    Args:
        text: ``name[:class]`` of the holder; without a class it is 0.

    Raises:
        ConfigError: the text is not of this form.
    """
    _parse_holder(text, f"argument --new-token: {grammar.shown(text)}")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, f"{text} {_digest(token).hex()}"


def _parse(line: str, where: str) -> tuple[bytes, Holder]:
    """Parse one line. It may be a token, so an error message never repeats it."""
    words = line.split()
    # A SHA-256 is no secret. Taken for a bare token, it would let everybody in who has seen it.
    if _DIGEST.fullmatch(line):
        raise ConfigError(
            f"{where} is 64 hexadecimal digits alone: write name[:class] before a SHA-256; "
            "a token that looks like one must be given as name[:class] and the token's SHA-256"
        )
    if len(words) == 1:
        return _digest(line), Holder(BARE, 0)
    if len(words) != 2 or not _DIGEST.fullmatch(words[1]):
        raise ConfigError(f"{where} is neither one token nor name[:class] and 64 hexadecimal digits")
    return bytes.fromhex(words[1]), _parse_holder(words[0], where)


def _parse_holder(text: str, where: str) -> Holder:
    match = _HOLDER.fullmatch(text)
    if not (match and grammar.is_name(match["name"])):
        raise ConfigError(
            f"{where} is not name[:class]: 1 to 64 characters of A-Z a-z 0-9 . _ @ -, and a whole number"
        )
    rank_class = int(match["rank_class"] or 0)
    if rank_class > MAX_CLASS:
        raise ConfigError(f"{where} has class {rank_class}; classes are 0 to {MAX_CLASS}")
    return Holder(match["name"], rank_class)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
