"""The command line of the client: arguments, signals, exit codes.

Exit codes: 0 we left, and all clients that may execute our commands did; 1 standard input or output failed;
2 bad usage; 3 cannot connect; 4 the server refused or ended the connection; 5 no client may execute a
command; 6 some clients failed, denied a command, timed out or left, or a command was not sent or is not
finished; 130 interrupted. With 1 to 4, one line says why: on standard error or, if we were connected, as the
last line of what happened.
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
from functools import partial
from typing import Any, Final

from client import executors, jsonlines, policy, processes
from client.console import Console, ConsoleOptions
from client.exits import Exit
from client.frontend import Frontend
from client.groups import GroupRenderer
from client.plain import PlainFrontend
from client.words import Renderer, render_text
from rankserver import __version__, arguments
from rankserver.client import tls
from rankserver.client.aio import Client, connect
from rankserver.client.display import visible
from rankserver.client.worker import MAX_JOBS, Executor
from rankserver.token_file import read_token_file
from rankserver.wire import grammar
from rankserver.wire.exceptions import ConfigError, ConnectError, DisconnectedError, StreamError

# The values of TERM for terminals whose cursor cannot be moved.
DUMB_TERMINALS: Final = ("", "dumb", "unknown")
EXECUTORS: Final = ("simulate", "program", "shell", "handler")
# The options that make no sense with --exec simulate.
PROCESS_OPTIONS: Final = ("allow", "allow_all", "timeout", "output_limit", "workdir", "max_processes")
# How long a write may wait for a reader until it is interrupted, in seconds. It is given up then if we were
# told to leave, so a pipe that nobody reads delays our leaving by no more than twice this time.
WRITE_TIMEOUT: Final = 1.0
# How long a simulated command takes by default, in seconds.
SIMULATED_DELAY: Final = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client until it leaves; return the exit code."""
    _open_missing_streams()
    parser = _parser()
    options = parser.parse_args(_unambiguous(sys.argv[1:] if argv is None else argv))
    try:
        _check(options)
        executor = _executor(options)
        if isinstance(executor, executors.ProcessExecutor):
            processes.hide()  # commands could read our environment and memory
        client = connect(
            options.address,
            name=options.name,
            token=_token(options),
            tls=_tls(options),
            insecure=options.insecure,
            reconnect=options.reconnect,
            executor=executor,
            jobs=options.jobs,
        )
    except ConfigError as error:
        parser.error(str(error))
    code, why = _ended(options, client, executor)
    if options.json:
        error_field = {"error": why} if why else {}
        code = _write_exit(jsonlines.line("exit", code=int(code), **error_field).text, code)
    if why:
        with contextlib.suppress(OSError):  # nobody to tell
            sys.stderr.write(visible(why) + "\n")
    return code


def _ended(options: argparse.Namespace, client: Client, executor: Executor) -> tuple[Exit, str]:
    """Run to the end; return the exit code, and the reason for it if that was not shown yet."""
    try:
        return asyncio.run(_run(options, client, executor)), ""
    except KeyboardInterrupt:  # before _run installed its handler
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
    except OSError:  # the reader is gone, which counts as a failure by itself
        return max(code, Exit.FAILED)
    return code


async def _run(options: argparse.Namespace, client: Client, executor: Executor) -> Exit:
    """Run the console until something ends it; SIGINT and SIGTERM make it leave."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in one
    signalled: list[Exit] = []
    frontend = _frontend(options)

    def leave(number: int, _frame: object) -> None:
        signalled.append(Exit.INTERRUPTED if number == signal.SIGINT else Exit.OK)
        loop.call_soon_threadsafe(task.cancel)

    def give_up(*_: object) -> None:
        if signalled:
            frontend.give_up()

    # Not with the loop's signal handlers: these run only after a write, which may wait for a reader for ever.
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)
    # A signal that comes just before a write does not interrupt it, so its handler has to wait for this one.
    signal.signal(signal.SIGALRM, give_up)
    frontend.interrupt_writes(WRITE_TIMEOUT)
    if options.executor in ("program", "shell") and not (options.allow or options.allow_all):
        frontend.complain("nothing is executed here: --allow FILE or --allow-all says what may be")
    elif isinstance(executor, executors.ProcessExecutor) and executor.lacks_limit:
        frontend.complain(
            "the processes of a command cannot be limited here: see --max-processes in docs/executing.md"
        )
    console = Console(client, frontend, _renderer(options, client), _console_options(options))
    try:
        return await console.run()
    except (asyncio.CancelledError, StreamError):
        if not signalled:
            raise
        return max(signalled[0], console.code)


def _console_options(options: argparse.Namespace) -> ConsoleOptions:
    return ConsoleOptions(
        None if options.commands is None else [os.fsencode(command) for command in options.commands],
        wait_for=options.wait_for,
        answer_timeout=options.answer_timeout,
        stays=options.stay,
        is_interactive=_is_typed(options) and not options.json,
    )


def _frontend(options: argparse.Namespace) -> Frontend:
    """Return a live prompt if a person can use one, else plain lines."""
    is_typed = _is_typed(options)
    if is_typed and not options.json and _moves_cursor(1):
        from client.terminal import TerminalFrontend  # noqa: PLC0415 - loads prompt_toolkit, which takes 0.1 s

        return TerminalFrontend()
    is_for_results = options.json or options.commands is not None
    chatter = sys.stderr if is_for_results else sys.stdout
    shows_progress = _moves_cursor(2) and not is_typed
    return PlainFrontend(0, sys.stdout, sys.stderr, chatter, shows_progress=shows_progress)


def _is_typed(options: argparse.Namespace) -> bool:
    """Tell whether commands come from a keyboard."""
    return options.commands is None and os.isatty(0)


def _moves_cursor(descriptor: int) -> bool:
    return os.isatty(descriptor) and os.environ.get("TERM", "") not in DUMB_TERMINALS


def _renderer(options: argparse.Namespace, client: Client) -> Renderer:
    if options.json:
        return jsonlines.render_json
    render = partial(render_text, address=str(client.address))
    return GroupRenderer(render, diff=options.diff) if options.group or options.diff else render


def _executor(options: argparse.Namespace) -> Executor:
    kind, _, path = options.executor.partition(" ")
    allowed = policy.ALL if options.allow_all else policy.load(options.allow) if options.allow else None
    limit = executors.MAX_OUTPUT_BYTES if options.output_limit is None else options.output_limit
    most = executors.MAX_PROCESSES if options.max_processes is None else options.max_processes
    executor_options = executors.ExecutorOptions(allowed, options.timeout, limit, options.workdir, most)
    delay = SIMULATED_DELAY if options.delay is None else options.delay
    return executors.make(kind, executor_options, delay=delay, handler=path)


def _token(options: argparse.Namespace) -> str | None:
    """Return the token from its file, if there is one.

    There is no option for the token itself, because other users can read command lines.
    """
    if not options.token_file:
        return None
    token = read_token_file(options.token_file).strip()
    if len(token.split()) != 1:
        raise ConfigError(f"the token file {options.token_file} must contain one token and nothing else")
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
    """Refuse options that contradict each other, or would have no effect.

    Raises:
        ConfigError: the message says what to do.
    """
    kind = options.executor.partition(" ")[0]
    process_only = [name for name in PROCESS_OPTIONS if getattr(options, name) is not None]
    if kind == "simulate" and process_only:
        option = process_only[0].replace("_", "-")
        kinds = "--exec program or" if option == "allow" else "--exec program, --exec shell or"
        raise ConfigError(f"--{option} needs {kinds} --exec handler PATH")
    if kind != "simulate" and options.delay is not None:
        raise ConfigError("--delay needs --exec simulate")
    if kind == "shell" and options.allow:
        raise ConfigError("--exec shell needs --allow-all: patterns cannot restrict what a shell does")
    if options.json and (options.group or options.diff):
        raise ConfigError("-b and --diff do not work with --json, which prints each answer as it comes")
    if options.wait_for and _is_typed(options):
        raise ConfigError("--wait-for needs -c, or commands from a pipe or a file")


class ClientParser(arguments.Parser):
    """Takes ``--`` as the value of an option. argparse would drop it and be left with an empty list."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and arg_strings == ["--"]:
            return self._get_value(action, "--")
        return super()._get_values(action, arg_strings)


def _parser() -> arguments.Parser:
    parser = ClientParser(
        prog="rankserver-client",
        usage="%(prog)s [options] [HOST[:PORT] | unix:PATH]",
        description="Send commands to clients of lower rank, and execute the commands of clients of higher "
        "rank. On a terminal, type commands at the prompt; otherwise they are read from standard input, one "
        "per line, or given with -c. To leave, type exit or end the input.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        metavar="HOST[:PORT]",
        help="address of the server (default: $RANKSERVER, or 127.0.0.1:5050 if that is not set)",
    )
    add = parser.add_argument
    add("--version", action="version", version=f"rankserver-client {__version__}")
    add("--name", type=_name, help="the name that others see (default: the server chooses one)")
    _add_trust(add)
    add(
        "--reconnect",
        action="store_true",
        help="keep trying to connect; after a lost connection, join again with a new rank",
    )
    _add_asking(parser.add_argument_group("asking").add_argument)
    _add_executing(parser.add_argument_group("executing"))
    return parser


def _add_trust(add: Callable[..., object]) -> None:
    add(
        "--token-file",
        metavar="FILE",
        default=os.environ.get("RANKSERVER_TOKEN_FILE"),
        help="file with the token for the server, closed to others (default: $RANKSERVER_TOKEN_FILE)",
    )
    add(
        "--tls",
        action="store_true",
        help="use TLS, and check the server's certificate",
    )
    add(
        "--tls-ca",
        metavar="FILE",
        help="file with the certificate authorities to trust (default: those of the system)",
    )
    add("--tls-cert", metavar="FILE", help="certificate to present to the server, if it requires one")
    add("--tls-key", metavar="FILE", help="private key of that certificate (default: in the same file)")
    add(
        "--insecure",
        action="store_true",
        help="allow the token to be sent over a network without TLS",
    )


def _add_asking(add: Callable[..., object]) -> None:
    add(
        "-c",
        "--command",
        dest="commands",
        metavar="COMMAND",
        action="append",
        help="send this command, print the answers, and leave; may be given several times",
    )
    add(
        "--wait-for",
        metavar="N",
        type=arguments.whole(0),
        default=0,
        help="before sending commands, wait until N other clients are connected",
    )
    add(
        "--answer-timeout",
        metavar="S",
        type=arguments.seconds(0),
        help="count clients that have not answered after S seconds as timed out (default: wait for all)",
    )
    add(
        "-b",
        "--group",
        action="store_true",
        help="show equal answers once, with the names of all clients that gave them",
    )
    add(
        "--diff",
        action="store_true",
        help="like -b, and show how outputs differ from the most common one",
    )
    add("--json", action="store_true", help="write each event as one line of JSON, and nothing else")


def _add_executing(executing: argparse._ArgumentGroup) -> None:
    add = executing.add_argument
    add(
        "--exec",
        dest="executor",
        metavar="KIND",
        type=_kind,
        default="simulate",
        help="how to execute commands of higher ranks: simulate (default); program, without a shell; shell; "
        "or handler PATH, a program that gets each command on its standard input",
    )
    allowed = executing.add_mutually_exclusive_group()
    allowed.add_argument(
        "--allow", metavar="FILE", help="run only commands that match a line of FILE, word by word"
    )
    allowed.add_argument(
        "--allow-all", action="store_const", const=True, help="run every command of a higher rank"
    )
    _add_bounds(add)
    add("--workdir", metavar="DIR", help="directory in which commands run (default: the current one)")
    add(
        "--delay",
        metavar="S",
        type=arguments.seconds(0),
        help="seconds that a simulated command takes (default: 1)",
    )
    add("--stay", action="store_true", help="after the end of the input, stay and execute commands")


def _add_bounds(add: Callable[..., object]) -> None:
    add(
        "--timeout",
        metavar="S",
        type=arguments.seconds(0),
        help="end a command, with everything that it started, after S seconds (default: never)",
    )
    add(
        "--jobs",
        metavar="N",
        type=arguments.whole(1, MAX_JOBS),
        default=1,
        help="run up to N commands at once (default: 1)",
    )
    add(
        "--output-limit",
        metavar="B",
        type=arguments.whole(0),
        help="send at most B bytes of a command's output (default: 32768)",
    )
    add(
        "--max-processes",
        metavar="N",
        type=arguments.whole(0, processes.PID_MAX_LIMIT),
        help="let a command have at most N processes and threads at once; 0 for no limit (default: 512)",
    )


def _unambiguous(argv: Sequence[str]) -> list[str]:
    """Join arguments that belong together but that argparse would separate.

    These are ``-c`` with a command that begins with a dash, and ``--exec handler`` with its path.
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
    if not grammar.is_name(text):
        raise argparse.ArgumentTypeError(f"{grammar.shown(text)} {grammar.NOT_A_NAME}")
    return text


def _open_missing_streams() -> None:
    """Open /dev/null in place of closed standard streams, before sockets can get their descriptors.

    Also make sure that any text can be written, whatever the encoding.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
