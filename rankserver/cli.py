"""The command line of the server: arguments to ``Config``, signals, exit codes.

Exit codes: 0 stopped by a signal; 1 failed, with one line on standard error; 2 usage; 130 interrupted twice.
SIGHUP rereads the tokens and certificates, SIGUSR1 logs a report.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import signal
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from rankserver import __version__, arguments, door, listeners, logs, signals, tls, tokens
from rankserver.channel import NO_MEMORY
from rankserver.config import Config
from rankserver.server import Server
from rankserver.wire import protocol
from rankserver.wire.exceptions import ConfigError, ListenError
from rankserver.wire.grammar import MAX_CLIENTS

# Descriptors beyond one for each client and stranger: for connections accepted in one turn, for clients that
# have left and are not closed yet, and for the server's own files.
SPARE_DESCRIPTORS: Final = 512
# The number of new objects after which Python looks for unreachable cycles, of which the server makes hardly
# any. No line's JSON has this many objects, so parsing it causes no search through all that the server holds.
MAX_NEW_OBJECTS: Final = 20_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; return the exit code."""
    parser = _build_parser()
    options = parser.parse_args(argv)
    logs.configure(options.log_level, options.log_format)
    try:
        config = _config(options)
        secrets = _load(config)
    except ConfigError as error:
        parser.error(str(error))
    try:
        return _serve(config, *secrets)
    except (ListenError, OSError) as error:  # OSError: standard output cannot be written, for example
        print(f"{parser.prog}: {error}", file=sys.stderr)
    except MemoryError:
        print(f"{parser.prog}: out of memory", file=sys.stderr)
    return 1


def _serve(config: Config, accepted: tokens.Tokens | None, context: ssl.SSLContext | None) -> int:
    gc.set_threshold(MAX_NEW_OBJECTS)
    _raise_descriptor_limit(config.capacity + door.max_strangers(config.capacity) + SPARE_DESCRIPTORS)
    server = Server(config, accepted, context)
    try:
        with signals.in_loop(server.loop.on_readable, _actions(server)):
            for address in server.listen():
                print(f"listening on {address}", flush=True)
            server.run()
    finally:
        server.close()
    return 0


def _load(config: Config) -> tuple[tokens.Tokens | None, ssl.SSLContext | None]:
    """Read the token file and the certificate files, if any.

    Raises:
        ConfigError: a file cannot be used.
    """
    accepted = tokens.load(config.token_file) if config.token_file else None
    if not (config.tls_cert and config.tls_key):
        return accepted, None
    return accepted, tls.context(config.tls_cert, config.tls_key, config.tls_client_ca)


def _reload(server: Server) -> None:
    """Read the files of ``_load`` again; if one cannot be used, keep what is loaded."""
    try:
        server.reload(*_load(server.config))
    except ConfigError as error:
        logs.event(logging.ERROR, "not reloaded", reason=str(error))
    except MemoryError:
        logs.event(logging.ERROR, "not reloaded", reason=NO_MEMORY.text)


def _actions(server: Server) -> dict[int, Callable[[int], None]]:
    """Return what each signal does. The second SIGINT or SIGTERM ends the program at once."""

    def end(times: int) -> None:
        if server.loop.is_stopping or times > 1:
            os._exit(130)
        server.stop()

    return {
        signal.SIGINT: end,
        signal.SIGTERM: end,
        signal.SIGHUP: lambda _: _reload(server),
        signal.SIGUSR1: lambda _: server.report(),
    }


def _raise_descriptor_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        logs.event(logging.WARNING, "too few descriptors", needed=needed, limit=hard)
        needed = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _config(options: argparse.Namespace) -> Config:
    _check_tls(options)
    if not options.insecure:
        _check_exposure(options)
    if options.max_backlog < 2 * options.max_line:
        raise ConfigError(f"argument --max-backlog: {options.max_backlog} is less than twice --max-line")
    return Config(
        capacity=options.capacity,
        host=options.host,
        port=options.port,
        unix=options.unix,
        handshake_timeout=options.handshake_timeout,
        heartbeat=options.heartbeat,
        max_line=options.max_line,
        max_backlog=options.max_backlog,
        slow_timeout=options.slow_timeout,
        max_per_address=options.max_per_address,
        token_file=options.token_file,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tls_client_ca=options.tls_client_ca,
    )


def _check_tls(options: argparse.Namespace) -> None:
    if options.tls_cert and not options.tls_key:
        raise ConfigError("argument --tls-cert: the certificate needs its private key, --tls-key")
    if options.tls_key and not options.tls_cert:
        raise ConfigError("argument --tls-key: the key needs its certificate, --tls-cert")
    if options.tls_client_ca and not options.tls_cert:
        raise ConfigError("argument --tls-client-ca: it needs --tls-cert and --tls-key as well")


def _check_exposure(options: argparse.Namespace) -> None:
    """Check that tokens and TLS are required on an address that other machines can reach.

    Raises:
        ConfigError: one of them is missing.
    """
    try:
        loopback = listeners.is_loopback(options.host)
    except ListenError as error:
        raise ConfigError(f"argument --host: {error}") from None
    lacking = [
        f"{what} ({option})"
        for what, option, value in (
            ("tokens", "--token-file", options.token_file),
            ("TLS", "--tls-cert and --tls-key", options.tls_cert),
        )
        if not value
    ]
    if lacking and not loopback:
        raise ConfigError(
            f"argument --host: {options.host} is not a loopback address, and needs {' and '.join(lacking)}: "
            "otherwise anybody could command or listen; --insecure allows it nevertheless"
        )


def _build_parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="rankserver",
        usage="%(prog)s N [options]",
        description="Rank up to N clients first come, first served, and broadcast what they command.",
    )
    parser.add_argument(
        "capacity", metavar="N", type=arguments.whole(1, MAX_CLIENTS), help="maximum number of clients"
    )
    parser.add_argument("--version", action="version", version=f"rankserver {__version__}")
    _add_addresses(parser.add_argument_group("addresses").add_argument)
    _add_trust(parser.add_argument_group("tokens and TLS").add_argument)
    _add_limits(parser.add_argument_group("limits").add_argument)
    _add_log(parser.add_argument_group("log, on standard error").add_argument)
    return parser


def _add_addresses(add: Callable[..., object]) -> None:
    add("--host", default=Config.host, help="address or host name to listen on (%(default)s)")
    add(
        "--port",
        metavar="P",
        type=arguments.whole(0, 65_535),
        default=Config.port,
        help="TCP port to listen on (%(default)s); 0 picks a free one",
    )
    add("--unix", metavar="PATH", type=_path, help="also listen on this Unix socket")


def _add_trust(add: Callable[..., object]) -> None:
    add("--token-file", metavar="F", type=_path, help="let only clients with one of these tokens join")
    add(
        "--new-token",
        metavar="NAME[:CLASS]",
        action=_NewToken,
        help="print a new token and its line for the token file, then exit",
    )
    add("--tls-cert", metavar="F", type=_path, help="use TLS on TCP, with this certificate")
    add("--tls-key", metavar="F", type=_path, help="private key of the certificate")
    add(
        "--tls-client-ca",
        metavar="F",
        type=_path,
        help="require clients to have a certificate signed by this authority",
    )
    add(
        "--insecure",
        action="store_true",
        help="allow addresses other than loopback without tokens and TLS",
    )


def _add_limits(add: Callable[..., object]) -> None:
    add(
        "--handshake-timeout",
        metavar="S",
        type=arguments.seconds(0.001),
        default=Config.handshake_timeout,
        help="seconds within which a client must send HELLO (%(default)s)",
    )
    add(
        "--heartbeat",
        metavar="S",
        type=arguments.seconds(0),
        default=Config.heartbeat,
        help="ping a client after S seconds of silence, and drop it after twice that (%(default)s); 0: never",
    )
    add(
        "--max-line",
        metavar="B",
        type=arguments.whole(protocol.MIN_MAX_LINE, protocol.MAX_MAX_LINE),
        default=Config.max_line,
        help="longest line from a client, in bytes (%(default)s)",
    )
    add(
        "--max-per-address",
        metavar="C",
        type=arguments.whole(0),
        default=Config.max_per_address,
        help=f"maximum number of connections from one address (N, but at least {door.MIN_PER_ADDRESS:,}); "
        "0: no limit",
    )
    _add_pace(add)


def _add_pace(add: Callable[..., object]) -> None:
    add(
        "--max-backlog",
        metavar="B",
        type=arguments.whole(1),
        default=Config.max_backlog,
        help="slow down clients that flood while any client is more than B/2 bytes behind, and stop taking"
        " commands from all at B (%(default)s)",
    )
    add(
        "--slow-timeout",
        metavar="S",
        type=arguments.seconds(0.001),
        default=Config.slow_timeout,
        help="drop a client that took less than 64 KiB a second while others waited for it, after S seconds"
        " of that in all; S seconds are forgiven each minute (%(default)s)",
    )


def _add_log(add: Callable[..., object]) -> None:
    add(
        "--log-level",
        metavar="LEVEL",
        choices=logs.LEVELS,
        default="info",
        help=f"least severe events to log: {', '.join(logs.LEVELS)} (%(default)s)",
    )
    add(
        "--log-format",
        metavar="FORMAT",
        choices=logs.FORMATS,
        default="text",
        help=f"{' or '.join(logs.FORMATS)} (%(default)s)",
    )


class _NewToken(argparse.Action):
    """Prints a new token and exits; like ``--version``, it needs no other argument."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 - argparse passes it
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        try:
            token, line = tokens.new(values)
        except ConfigError as error:
            parser.error(str(error))
        print(f"token {token}\n{line}")
        parser.exit()


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text
