"""Tokens: the contents of a file, and that no message shows a token."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NoReturn

import pytest

from rankserver import tokens
from rankserver.tokens import MAX_CLASS, Holder
from rankserver.wire.exceptions import ConfigError
from tests.support.tls_peer import write_private


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def load(path: Path, *lines: str) -> tokens.Tokens:
    return tokens.load(str(write_private(path / "tokens", "".join(f"{line}\n" for line in lines))))


def test_each_kind_of_line_gives_its_holder(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "# operators",
        "",
        f"root:0 {digest('one')}",
        f"  web-1:7\t {digest('two').upper()}  ",
        f"web-2 {digest('three')}",
        "four",
        f"last:{MAX_CLASS} {digest('five')}",
    )
    assert len(loaded) == 5
    assert loaded.holder("one") == Holder("root", 0)
    assert loaded.holder("two") == Holder("web-1", 7)
    assert loaded.holder("three") == Holder("web-2", 0)
    assert loaded.holder("four") == Holder("-", 0)
    assert loaded.holder("five") == Holder("last", MAX_CLASS)


def test_nothing_else_is_a_token(tmp_path: Path) -> None:
    loaded = load(tmp_path, f"root {digest('one')}", "two")
    for wrong in (
        "",
        "One",
        "one ",
        digest("one"),
        "root",
        "# x",
        "\ud800",
        "x" * 65_536,
        f"root {digest('one')}",
    ):
        assert loaded.holder(wrong) is None


SECRET = "S3cret"  # noqa: S105 - of a test
# A SHA-256 whose line lacks the name.
HEXADECIMAL = digest("of somebody")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{SECRET} and more", "64 hexadecimal digits"),
        (f"name {SECRET}", "64 hexadecimal digits"),
        (f"{SECRET} {'0' * 63}", "64 hexadecimal digits"),
        (f"name {'0' * 64} {SECRET}", "64 hexadecimal digits"),
        (HEXADECIMAL, "write name[:class] before a SHA-256"),
        (f"  {HEXADECIMAL.upper()}\t", "write name[:class] before a SHA-256"),
        (f"name:x {'0' * 64}", "name[:class]"),
        (f"name:-1 {'0' * 64}", "name[:class]"),
        (f"name: {'0' * 64}", "name[:class]"),
        (f"name:1:2 {'0' * 64}", "name[:class]"),
        (f"name:99999999999 {'0' * 64}", "name[:class]"),
        (f"na/me {'0' * 64}", "name[:class]"),
        (f"{'n' * 65} {'0' * 64}", "name[:class]"),
        (f"name:{MAX_CLASS + 1} {'0' * 64}", f"class {MAX_CLASS + 1}"),
        (f"first {digest('again')}", "repeats an earlier token"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_not_shown(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError, match="line 3 of the token file") as error:
        load(tmp_path, "# who may join", "again", line)
    assert says in str(error.value)
    assert SECRET not in str(error.value)
    assert HEXADECIMAL not in str(error.value).lower()


def test_a_token_that_looks_like_a_digest_needs_a_name(tmp_path: Path) -> None:
    loaded = load(tmp_path, f"root {digest(HEXADECIMAL)}", HEXADECIMAL[:-1])
    assert loaded.holder(HEXADECIMAL) == Holder("root", 0)
    assert loaded.holder(HEXADECIMAL[:-1]) == Holder("-", 0)


@pytest.mark.parametrize("line", ["one", f"root {digest('one')}", "# who may join\none"])
def test_a_byte_order_mark_before_the_first_line_is_ignored(tmp_path: Path, line: str) -> None:
    loaded = load(tmp_path, f"\ufeff{line}")
    assert loaded.holder("one")
    assert len(loaded) == 1


@pytest.mark.parametrize("lines", [[], ["", "# nobody"]])
def test_a_file_without_a_token_is_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match="contains no token"):
        load(tmp_path, *lines)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_private(tmp_path / "tokens", "token\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:o}.*chmod o="):
        tokens.load(str(path))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_file_for_its_owner_and_group_is_accepted(tmp_path: Path, mode: int) -> None:
    path = write_private(tmp_path / "tokens", "token\n")
    path.chmod(mode)
    assert tokens.load(str(path)).holder("token")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match=f"token file {path}: "):
            tokens.load(str(path))
    path = write_private(tmp_path / "tokens", "")
    path.write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        tokens.load(str(path))


def test_only_a_regular_file_is_read() -> None:
    with pytest.raises(ConfigError, match=f"{os.devnull} is not a regular file"):
        tokens.load(os.devnull)


class Unread(dict[bytes, Holder]):
    """A dictionary that allows look-ups but no iteration."""

    def __iter__(self) -> NoReturn:
        pytest.fail("all tokens are compared")

    keys = values = items = __iter__


def test_a_look_up_does_not_go_through_all_tokens() -> None:
    loaded = tokens.Tokens({hashlib.sha256(b"%d" % number).digest(): Holder("x", 0) for number in range(9)})
    loaded._holders = Unread(loaded._holders)
    assert loaded.holder("8") == Holder("x", 0)
    assert loaded.holder("wrong") is None


def test_stored_token_keys_cannot_be_predicted(tmp_path: Path) -> None:
    first, again = (load(tmp_path, "one", f"root {digest('two')}") for _ in range(2))
    known = {hashlib.sha256(token).digest() for token in (b"one", b"two")}
    assert len(known | first._holders.keys() | again._holders.keys()) == 6


def test_a_new_token_is_accepted_with_its_line(tmp_path: Path) -> None:
    (one, line_one), (two, line_two) = tokens.new("op"), tokens.new("web-1:12")
    loaded = load(tmp_path, line_one, line_two)
    assert loaded.holder(one) == Holder("op", 0)
    assert loaded.holder(two) == Holder("web-1", 12)
    assert len(one) >= 32
    assert one != two
    assert one not in line_one


@pytest.mark.parametrize("text", ["", "two words", "a:b", "a:", ":1", "a:-1", "a\n", f"a:{MAX_CLASS + 1}"])
def test_a_new_token_needs_a_name_and_a_class(text: str) -> None:
    with pytest.raises(ConfigError, match="argument --new-token: "):
        tokens.new(text)
