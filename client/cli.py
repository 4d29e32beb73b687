"""The command line of the client: arguments, signals, exit codes.

Exit codes: 0 left, or all who may execute what was asked did so; 1 failed; 2 usage; 3 could not connect;
4 the server refused or ended the connection; 5 nobody may execute it; 6 some failed, were denied, timed out
or went, or a command was not sent or has no end yet; 130 interrupted. 1 to 4 come with one line that says
why: on standard error, or for an end that came while connected as the last line of what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import signal
import ssl
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from client import executors, jsonlines, policy
from client.console import Console, Exit, Face, Plan
from client.gather import Gathered
from client.plain import Plain
from client.words import Describe, Words
from rankserver import arguments
from rankserver.client import tls
from rankserver.client.aio import Client, connect
from rankserver.client.display import visible
from rankserver.client.worker import MOST_JOBS, Executor
from rankserver.wire import protocol
from rankserver.wire.exceptions import ConfigError, ConnectError, DisconnectedError, StreamError

DUMB_TERMINALS: Final = ("", "dumb", "unknown")  # values of TERM that promise no cursor movement
EXECUTORS: Final = ("simulate", "program", "shell", "handler")
FOR_REAL: Final = ("allow", "allow_all", "timeout", "output_limit", "workdir")  # not for simulate
PATIENCE_WITH_READERS: Final = 1.0  # seconds that a write may hold up our leaving
SIMULATED_DELAY: Final = 1.0  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client until it is left; return the exit code."""
    _open_missing_streams()
    parser = _parser()
    options = parser.parse_args(_unambiguous(sys.argv[1:] if argv is None else argv))
    try:
        _check(options)
        executor = _executor(options)
        client = connect(
            options.address,
            name=options.name,
            token=_token(options),
            tls=_tls(options),
            reconnect=options.reconnect,
            executor=executor,
            jobs=options.jobs,
        )
    except ConfigError as error:
        parser.error(str(error))
    code, why = _ended(options, client)
    if options.json:
        error_field = {"error": why} if why else {}
        code = _write_exit(jsonlines.line("exit", code=int(code), **error_field).text, code)
    if why:
        with contextlib.suppress(OSError):  # nobody to tell
            sys.stderr.write(visible(why) + "\n")
    return code


def _ended(options: argparse.Namespace, client: Client) -> tuple[Exit, str]:
    """Run to the end; return the exit code, and what is to be said if nothing has said it."""
    try:
        return asyncio.run(_run(options, client)), ""
    except KeyboardInterrupt:  # before _run took the signal over
        return Exit.INTERRUPTED, ""
    except ConnectError as error:
        return Exit.NO_CONNECTION, str(error)
    except DisconnectedError as error:
        return Exit.DISCONNECTED, f"disconnected: {error}"
    except StreamError as error:
        return Exit.FAILED, str(error)


def _write_exit(line: str, code: Exit) -> Exit:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError:  # whoever reads it is gone, which is worth a code even if nothing else failed
        return max(code, Exit.FAILED)
    return code


async def _run(options: argparse.Namespace, client: Client) -> Exit:
    """Converse until something ends it; SIGINT and SIGTERM do so by leaving."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in one
    told: list[Exit] = []
    face = _face(options)

    def leave(number: int, _frame: object) -> None:
        told.append(Exit.INTERRUPTED if number == signal.SIGINT else Exit.OK)
        loop.call_soon_threadsafe(task.cancel)
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_WITH_READERS, PATIENCE_WITH_READERS)

    # Not by the loop: its handlers wait for a write, and that may wait for a reader for ever.
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGALRM, lambda *_: face.give_up())
    plan = Plan(
        None if options.commands is None else [os.fsencode(command) for command in options.commands],
        wait_for=options.wait_for,
        patience=options.answer_timeout,
        stays=options.stay,
        is_interactive=_is_typed(options) and not options.json,
    )
    if options.executor in ("program", "shell") and not (options.allow or options.allow_all):
        face.complain("nothing is executed here: --allow FILE or --allow-all says what may be")
    console = Console(client, face, _describe(options, client), plan)
    try:
        return await console.run()
    except (asyncio.CancelledError, StreamError):
        if not told:
            raise
        return max(told[0], console.code)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _face(options: argparse.Namespace) -> Face:
    """Return a live prompt if a person can use one, else plain lines."""
    is_typed = _is_typed(options)
    if is_typed and not options.json and _moves_cursor(1):
        from client.terminal import Terminal  # noqa: PLC0415 - loads prompt_toolkit, which takes 0.1 s

        return Terminal()
    is_for_results = options.json or options.commands is not None
    chatter = sys.stderr if is_for_results else sys.stdout
    return Plain(0, sys.stdout, sys.stderr, chatter, shows_progress=_moves_cursor(2) and not is_typed)


def _is_typed(options: argparse.Namespace) -> bool:
    """Whether commands come from a keyboard."""
    return options.commands is None and os.isatty(0)


def _moves_cursor(descriptor: int) -> bool:
    return os.isatty(descriptor) and os.environ.get("TERM", "") not in DUMB_TERMINALS


def _describe(options: argparse.Namespace, client: Client) -> Describe:
    if options.json:
        return jsonlines.describe
    words = Words(str(client.address))
    return Gathered(words, diff=options.diff) if options.group or options.diff else words


def _executor(options: argparse.Namespace) -> Executor:
    kind, _, path = options.executor.partition(" ")
    allowed = policy.ALL if options.allow_all else policy.load(options.allow) if options.allow else None
    limit = executors.OUTPUT_LIMIT if options.output_limit is None else options.output_limit
    terms = executors.Terms(allowed, options.timeout, limit, options.workdir)
    delay = SIMULATED_DELAY if options.delay is None else options.delay
    return executors.make(kind, terms, delay=delay, handler=path)


def _token(options: argparse.Namespace) -> str | None:
    """Return the token in the file that is named, if one is: a command line can be read by others."""
    if not options.token_file:
        return None
    try:
        token = Path(options.token_file).read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"cannot read the token file {options.token_file}: {why}") from None
    if len(token.split()) != 1:
        raise ConfigError(f"the token file {options.token_file} does not hold one token and nothing else")
    return token


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        if options.tls_ca or options.tls_cert or options.tls_key:
            raise ConfigError("--tls-ca, --tls-cert and --tls-key need --tls")
        return None
    if options.tls_key and not options.tls_cert:
        raise ConfigError("--tls-key needs --tls-cert")
    return tls.context(options.tls_ca, options.tls_cert, options.tls_key)


def _check(options: argparse.Namespace) -> None:
    """Refuse what contradicts itself, or would have no effect.

    Raises:
        ConfigError: and says what to do.
    """
    kind = options.executor.partition(" ")[0]
    for_real = [name for name in FOR_REAL if getattr(options, name) is not None]
    if kind == "simulate" and for_real:
        option = for_real[0].replace("_", "-")
        kinds = "--exec program or" if option == "allow" else "--exec program, --exec shell or"
        raise ConfigError(f"--{option} needs {kinds} --exec handler PATH")
    if kind != "simulate" and options.delay is not None:
        raise ConfigError("--delay is for --exec simulate")
    if kind == "shell" and options.allow:
        raise ConfigError("--allow is not for --exec shell, which no patterns can bound; use --allow-all")
    if options.json and (options.group or options.diff):
        raise ConfigError("-b and --diff are not for --json, which has each answer as it comes")
    if options.wait_for and _is_typed(options):
        raise ConfigError("--wait-for is for -c, and for commands from a pipe or a file")


class _Parser(arguments.Parser):
    """Takes ``--`` as the value of an option, where argparse drops it and is left with an empty list."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and arg_strings == ["--"]:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)


def _parser() -> arguments.Parser:
    parser = _Parser(
        prog="rankserver-client",
        usage="%(prog)s [options] [HOST[:PORT] | unix:PATH]",
        description="Command those who rank lower, and execute what those who rank higher command. On a "
        "terminal, type commands at the prompt; otherwise they are read from standard input, a line each, or "
        "given with -c. exit, or the end of the input, leaves.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        metavar="HOST[:PORT]",
        help="where the server listens (default: the environment's RANKSERVER, else 127.0.0.1:5050)",
    )
    add = parser.add_argument
    add("--name", type=_name, help="what others see of us (default: the server gives a name)")
    add(
        "--token-file",
        metavar="FILE",
        default=os.environ.get("RANKSERVER_TOKEN_FILE"),
        help="a file with the token that the server wants (default: the environment's RANKSERVER_TOKEN_FILE)",
    )
    add("--tls", action="store_true", help="speak TLS, and only with a server that can prove its name")
    add(
        "--tls-ca",
        metavar="FILE",
        help="the authorities that vouch for servers (default: the system's)",
    )
    add("--tls-cert", metavar="FILE", help="our certificate, if the server wants one")
    add("--tls-key", metavar="FILE", help="its key (default: in the same file)")
    add("--reconnect", action="store_true", help="connect again, at the tail, when the connection fails")
    _add_asking(parser.add_argument_group("asking").add_argument)
    _add_executing(parser.add_argument_group("executing"))
    return parser


def _add_asking(add: Callable[..., object]) -> None:
    add(
        "-c",
        "--command",
        dest="commands",
        metavar="COMMAND",
        action="append",
        help="ask this, print the answers, leave; may be given several times",
    )
    add("--wait-for", metavar="N", type=arguments.whole(0), default=0, help="wait until N others are here")
    add(
        "--answer-timeout",
        metavar="S",
        type=arguments.seconds(0),
        help="who has not answered after S seconds counts as timed out (default: wait for all)",
    )
    add("-b", "--group", action="store_true", help="show equal answers once, under all who gave them")
    add("--diff", action="store_true", help="as -b, and show how outputs differ from the most common one")
    add("--json", action="store_true", help="write each event as a JSON object on a line, and nothing else")


def _add_executing(executing: argparse._ArgumentGroup) -> None:
    add = executing.add_argument
    add(
        "--exec",
        dest="executor",
        metavar="KIND",
        type=_kind,
        default="simulate",
        help="what to do with commands of higher ranks: simulate (default); program, run without a shell; "
        "shell; or handler PATH, a program that gets them on its standard input",
    )
    allowed = executing.add_mutually_exclusive_group()
    allowed.add_argument("--allow", metavar="FILE", help="run only what matches a line of FILE, word by word")
    allowed.add_argument(
        "--allow-all", action="store_const", const=True, help="run whatever a higher rank commands"
    )
    add(
        "--timeout",
        metavar="S",
        type=arguments.seconds(0),
        help="end a command, and all that it started, after S seconds (default: never)",
    )
    add(
        "--jobs",
        metavar="N",
        type=arguments.whole(1, MOST_JOBS),
        default=1,
        help="run N at once (default: 1)",
    )
    add(
        "--output-limit",
        metavar="B",
        type=arguments.whole(0),
        help="answer with at most B bytes of output (default: 32768)",
    )
    add("--workdir", metavar="DIR", help="where commands run (default: where the client runs)")
    add(
        "--delay",
        metavar="S",
        type=arguments.seconds(0),
        help="seconds that the simulated execution of a command takes (default: 1)",
    )
    add("--stay", action="store_true", help="go on executing after the end of the input")


def _unambiguous(argv: Sequence[str]) -> list[str]:
    """Join what belongs together but looks to argparse as if it did not.

    That is a command that begins with a dash, and the path after ``--exec handler``.
    """
    joined: list[str] = []
    rest = deque(argv)
    while rest and rest[0] != "--":
        word = rest.popleft()
        if word in ("-c", "--command") and rest:
            word = f"--command={rest.popleft()}"
        elif word == "--exec" and len(rest) > 1 and rest[0] == "handler":
            word = f"--exec={rest.popleft()} {rest.popleft()}"
        joined.append(word)
    return [*joined, *rest]


def _kind(text: str) -> str:
    kind, _, path = text.partition(" ")
    if kind not in EXECUTORS or (kind == "handler") != bool(path):
        raise argparse.ArgumentTypeError(f"{text!r} is not simulate, program, shell or handler PATH")
    return text


def _name(text: str) -> str:
    if not protocol.is_name(text):
        raise argparse.ArgumentTypeError(f"{protocol.shown(text)} {protocol.NOT_A_NAME}")
    return text


def _open_missing_streams() -> None:
    """Put /dev/null where our starter closed a standard stream, before a socket gets its descriptor.

    And make sure that no text can fail to be written, whatever the encoding.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
