"""The command line of the client: arguments, signals, exit codes.

Exit codes: 0 left, or all who may execute what was asked did so; 1 failed; 2 usage; 3 could not connect;
4 the server refused or ended the connection; 5 nobody may execute it; 6 some failed, were denied, timed out
or went; 130 interrupted. 1 to 4 come with one line that says why: on standard error, or for an end that came
while connected as the last line of what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

from client import executors, jsonlines, policy
from client.aio import Client, connect
from client.console import Console, Exit, Face, Plan
from client.gather import Gathered
from client.plain import Plain
from client.words import Describe, Words
from client.worker import Executor
from rankserver import arguments, protocol
from rankserver.exceptions import ConfigError, ConnectError, DisconnectedError, StreamError

DEFAULT_ADDRESS: Final = "127.0.0.1:5050"
DUMB_TERMINALS: Final = ("", "dumb", "unknown")  # values of TERM that promise no cursor movement
EXECUTORS: Final = ("simulate", "program", "shell", "handler")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client until it is left; return the exit code."""
    _open_missing_streams()
    parser = _parser()
    options = parser.parse_args(_unambiguous(sys.argv[1:] if argv is None else argv))
    try:
        executor = _executor(options)
        client = connect(
            options.address,
            name=options.name,
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
            sys.stderr.write(why + "\n")
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

    def leave(code: Exit) -> None:
        told.append(code)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, leave, Exit.INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, leave, Exit.OK)
    is_typed = options.commands is None and os.isatty(0)
    plan = Plan(
        None if options.commands is None else [os.fsencode(command) for command in options.commands],
        wait_for=options.wait_for,
        patience=options.answer_timeout,
        stays=options.stay,
        is_interactive=is_typed and not options.json,
    )
    try:
        return await Console(client, _face(options), _describe(options, client), plan).run()
    except asyncio.CancelledError:
        if not told:
            raise
        return told[0]


def _face(options: argparse.Namespace) -> Face:
    """Return a live prompt if a person can use one, else plain lines."""
    is_plain = options.json or options.commands is not None
    if not is_plain and os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "") not in DUMB_TERMINALS:
        from client.terminal import Terminal  # noqa: PLC0415 - loads prompt_toolkit, which takes 0.1 s

        return Terminal()
    return Plain(0, sys.stdout, sys.stderr, sys.stderr if is_plain else sys.stdout)


def _describe(options: argparse.Namespace, client: Client) -> Describe:
    if options.json:
        return jsonlines.describe
    words = Words(str(client.address))
    return Gathered(words, diff=options.diff) if options.group or options.diff else words


def _executor(options: argparse.Namespace) -> Executor:
    kind, _, path = options.executor.partition(" ")
    allowed = policy.ALL if options.allow_all else policy.load(options.allow) if options.allow else None
    terms = executors.Terms(allowed, options.timeout, options.output_limit, options.workdir)
    return executors.make(kind, terms, delay=options.delay, handler=path)


def _parser() -> arguments.Parser:
    parser = arguments.Parser(
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
        default=os.environ.get("RANKSERVER") or DEFAULT_ADDRESS,
        help="where the server listens (default: the environment's RANKSERVER, else 127.0.0.1:5050)",
    )
    add = parser.add_argument
    add("--name", type=_name, help="what others see of us (default: the server gives a name)")
    add("--reconnect", action="store_true", help="connect again, at the tail, when the connection fails")
    _add_asking(parser.add_argument_group("asking").add_argument)
    _add_executing(parser.add_argument_group("executing").add_argument)
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
    add("--diff", action="store_true", help="with -b, show how outputs differ from the most common one")
    add("--json", action="store_true", help="write each event as a JSON object on a line, and nothing else")


def _add_executing(add: Callable[..., object]) -> None:
    add(
        "--exec",
        dest="executor",
        metavar="KIND",
        type=_kind,
        default="simulate",
        help="what to do with commands of higher ranks: simulate (default); program, run without a shell; "
        "shell; or handler PATH, a program that gets them on its standard input",
    )
    add("--allow", metavar="FILE", help="run only what matches a line of FILE, word by word")
    add("--allow-all", action="store_true", help="run whatever a higher rank commands")
    add(
        "--timeout",
        metavar="S",
        type=arguments.seconds(0),
        help="end a command, and all that it started, after S seconds (default: never)",
    )
    add("--jobs", metavar="N", type=arguments.whole(1), default=1, help="run N at once (default: 1)")
    add(
        "--output-limit",
        metavar="B",
        type=arguments.whole(0),
        default=executors.OUTPUT_LIMIT,
        help="answer with at most B bytes of output (default: 32768)",
    )
    add("--workdir", metavar="DIR", help="where commands run (default: where the client runs)")
    add(
        "--delay",
        metavar="S",
        type=arguments.seconds(0),
        default=1.0,
        help="seconds that the simulated execution of a command takes (default: 1)",
    )
    add("--stay", action="store_true", help="go on executing after the end of the input")


def _unambiguous(argv: Sequence[str]) -> list[str]:
    """Join what belongs together but looks to argparse as if it did not.

    That is a command that begins with a dash, and the path after ``--exec handler``.
    """
    given = list(argv)
    for at in range(len(given) - 2, -1, -1):
        if given[at] in ("-c", "--command"):
            given[at : at + 2] = [f"--command={given[at + 1]}"]
        elif given[at : at + 2] == ["--exec", "handler"] and at + 2 < len(given):
            given[at : at + 3] = [f"--exec=handler {given[at + 2]}"]
    return given


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
