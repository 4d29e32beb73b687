from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import policy
from client.policy import Policy
from rankserver.wire.exceptions import ConfigError


@pytest.mark.parametrize(
    ("pattern", "argv", "allowed"),
    [
        ("uptime", ["uptime"], True),
        ("uptime", ["uptime", "-p"], False),
        ("uptime", ["uptimes"], False),
        ("uptime", ["Uptime"], False),
        ("uptime", ["/usr/bin/uptime"], False),
        ("uptime", ["./uptime"], False),
        ("/usr/bin/uptime", ["uptime"], False),
        ("/usr/bin/uptime", ["/usr/bin/uptime"], True),
        ("/usr/bin/uptime", ["/usr/bin/../bin/uptime"], False),
        ("systemctl status *", ["systemctl", "status", "ssh"], True),
        ("systemctl status *", ["systemctl", "status"], False),
        ("systemctl status *", ["systemctl", "status", ""], True),
        # This is one word, and no shell sees it.
        ("systemctl status *", ["systemctl", "status", "a b; reboot"], True),
        ("systemctl status *", ["systemctl", "status", "a", "b"], False),
        ("systemctl status *", ["systemctl", "stop", "status", "a"], False),
        ("df ...", ["df"], True),
        ("df ...", ["df", "-h", "/"], True),
        ("df ...", ["dd"], False),
        ("df ... x", ["df", "a", "x"], False),
        ("df ... x", ["df", "...", "x"], True),
        ("...", ["anything", "at", "all"], True),
        ("kill [0-9]", ["kill", "7"], True),
        ("kill [0-9]", ["kill", "a"], False),
        ("kill ?", ["kill", "77"], False),
        # What is quoted stands for itself.
        ("echo '*'", ["echo", "foo"], False),
        ("echo '*'", ["echo", "*"], True),
        ('echo "*"', ["echo", "foo"], False),
        ('echo "*"', ["echo", "*"], True),
        (r"echo \*", ["echo", "foo"], False),
        (r"echo \*", ["echo", "*"], True),
        ("echo '?'", ["echo", "a"], False),
        ("echo '[a]'", ["echo", "a"], False),
        ("echo '[a]'", ["echo", "[a]"], True),
        ("echo '[*]'", ["echo", "*"], False),
        ("ls '...'", ["ls", "a"], False),
        ("ls '...'", ["ls", "..."], True),
        (r"ls \...", ["ls", "a", "b"], False),
        (r"ls \...", ["ls", "..."], True),
        # Only what is quoted does.
        ("""ls /a' 'b*"*"?""", ["ls", "/a bcd*e"], True),
        ("""ls /a' 'b*"*"?""", ["ls", "/a bcdde"], False),
        ("ls [ab]'*'", ["ls", "b*"], True),
        ("ls [ab]'*'", ["ls", "bc"], False),
        ("ls '['*", ["ls", "[x"], True),
        ("ls '['a]", ["ls", "a"], False),
        ("ls '!'", ["ls", "!"], True),
        (r'echo "a\$\"\\*"', ["echo", r'a\$"\*'], True),
        ("[ -f 'a b' ]", ["[", "-f", "a b", "]"], True),
        ("ls [*]", ["ls", "a"], False),
        ("ls [*]", ["ls", "*"], True),
        # A command is not a pattern.
        ("ls a", ["ls", "*"], False),
        ("ls a", ["*", "a"], False),
        ("ls a", ["ls", "..."], False),
        ("echo 'a b'", ["echo", "a b"], True),
        ("echo 'a b'", ["echo", "a", "b"], False),
        ("echo a#b", ["echo", "a#b"], True),
        ("echo\ta", ["echo", "a"], True),
        ("echo *", ["echo", "a\tb\nc"], True),
        ("''", [""], True),
    ],
)
def test_a_pattern_matches_word_by_word(
    tmp_path: Path,
    pattern: str,
    argv: list[str],
    allowed: bool,
) -> None:
    file = tmp_path / "allow"
    file.write_text(pattern)
    assert policy.load(file).allows(argv) is allowed


def test_a_command_is_allowed_if_any_pattern_of_the_file_matches(tmp_path: Path) -> None:
    file = tmp_path / "allow"
    file.write_bytes(b"# what is allowed\r\n\r\n  uptime  \r\n \t# df\nls ...")
    allow = policy.load(file)
    assert allow.allows(["uptime"])
    assert allow.allows(["ls", "-l"])
    assert not allow.allows(["df"])
    assert not allow.allows(["#", "df"])
    assert not allow.allows(["reboot"])
    assert not allow.allows_all


def test_a_byte_order_mark_is_not_part_of_a_pattern(tmp_path: Path) -> None:
    file = tmp_path / "allow"
    file.write_bytes(b"\xef\xbb\xbfuptime\nls\n")
    assert policy.load(file).allows(["uptime"])
    assert policy.load(file).allows(["ls"])


def test_an_empty_file_allows_nothing(tmp_path: Path) -> None:
    file = tmp_path / "allow"
    file.write_text("\n# uptime\n")
    assert not policy.load(file).allows(["uptime"])


def test_no_patterns_allow_nothing_and_allow_all_allows_all() -> None:
    assert not policy.NOTHING.allows(["true"])
    assert policy.ALL.allows(["true"])
    assert Policy([["true"]], allows_all=True).allows(["false"])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"cannot read the allow file '.*nowhere': No such file or directory"
    ):
        policy.load(tmp_path / "nowhere")


def test_a_directory_is_refused_as_an_allow_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Is a directory"):
        policy.load(tmp_path)


def test_a_line_that_cannot_be_split_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "allow"
    file.write_text("# one\nuptime\necho 'a\n")
    with pytest.raises(
        ConfigError, match=r'^line 3 of the allow file .*: no closing quotation in "echo \'a"$'
    ):
        policy.load(file)


@pytest.mark.parametrize("word", ["[']']", "[a'b'c]", r"[\!a]", "a['b'"])
def test_quotes_in_a_set_are_refused(tmp_path: Path, word: str) -> None:
    file = tmp_path / "allow"
    file.write_text(f"uptime\nls {word}\n")
    with pytest.raises(
        ConfigError, match=r"^line 2 of .*: quotes and backslashes cannot be used after an open"
    ):
        policy.load(file)


@given(st.text("ab ]!-'\"\\\t#$é\u00a0\u2028"))
def test_a_line_is_split_as_a_shell_would_split_it(line: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError:
        with pytest.raises(ValueError, match="No "):
            policy.split(line)
    else:
        assert policy.split(line) == words


@given(st.text("ab *?[].!-#$é\u00a0\\\"'", min_size=1))
def test_a_quoted_word_allows_itself_and_nothing_else(word: str) -> None:
    quoted = "'" + word.replace("'", r"'\''") + "'"
    allow = Policy([policy.split(f"echo {quoted}")])
    assert allow.allows(["echo", word])
    assert not allow.allows(["echo", word, word])
    assert not any(allow.allows(["echo", other]) for other in ("", "x", f"{word}x", f"x{word}"))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "allow"
    file.write_bytes(b"uptime\n\xff\n")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        policy.load(file)
