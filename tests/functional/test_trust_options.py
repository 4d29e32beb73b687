"""The options for tokens and TLS on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver import cli
from rankserver.config import Config
from tests.functional.test_server import check_failure, run
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.tls_peer import Certificates, write_private


def test_new_token_prints_a_token_and_its_line_for_the_file(
    serve: Callable[..., ServerProcess], connect: Callable[[ServerProcess], RawClient], tmp_path: Path
) -> None:
    result = run("--new-token", "web-1:3")
    assert (result.returncode, result.stderr) == (0, "")
    first, line = result.stdout.splitlines()
    verb, token = first.split(" ")
    assert verb == "token"
    server = serve(1, "--token-file", str(write_private(tmp_path / "tokens", line + "\n")))
    assert connect(server).hello("x", token=token)["class"] == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--new-token", "two words"], "--new-token"),
        (["--new-token", "a:b"], "--new-token"),
        (["8", "--tls-cert", "cert"], "--tls-key"),
        (["8", "--tls-key", "key"], "--tls-cert"),
        (["8", "--tls-client-ca", "ca"], "--tls-cert"),
        (["8", "--tls-cert", "no-cert", "--tls-key", "no-key"], "no-cert"),
        (["8", "--token-file", "no-tokens"], "no-tokens"),
        (["8", "--token-file", ""], "--token-file"),
    ],
)
def test_bad_usage_exits_2_with_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    output, errors = capsys.readouterr()
    assert (exit_.value.code, output, len(errors.splitlines())) == (2, "", 1)
    assert named in errors


@pytest.mark.parametrize("given", ["nothing", "tokens", "tls"])
def test_a_public_address_needs_tokens_and_tls(
    given: str, tmp_path: Path, certificates: Certificates
) -> None:
    file = str(write_private(tmp_path / "tokens", "token\n"))
    options = {"nothing": [], "tokens": ["--token-file", file], "tls": certificates.options}[given]
    result = run("8", "--port", "0", "--host", "0.0.0.0", *options)
    lacking = {"--token-file": given != "tokens", "--tls-cert": given != "tls"}
    check_failure(result, 2, "0.0.0.0", "--insecure", *(option for option, lacks in lacking.items() if lacks))
    for option, lacks in lacking.items():
        assert (option in result.stderr) == lacks


def test_a_public_address_is_served_with_tokens_and_tls(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(write_private(tmp_path / "tokens", "token\n"))
    served: list[str] = []

    def serve(config: Config, *_: object) -> int:
        served.append(config.host)
        return 0

    monkeypatch.setattr(cli, "_serve", serve)
    assert cli.main(["1", "--host", "0.0.0.0", "--token-file", file, *certificates.options]) == 0
    assert served == ["0.0.0.0"]
