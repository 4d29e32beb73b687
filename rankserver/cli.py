"""The command line of the server: arguments to ``Config``, signals, exit codes.

Exit codes: 0 stopped by a signal; 1 failed, with one line on standard error; 2 usage; 130 interrupted twice.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rankserver import __version__, arguments, listeners, logs, protocol
from rankserver.config import Config
from rankserver.exceptions import ConfigError, ListenError
from rankserver.server import Server

SPARE_DESCRIPTORS: Final = 64  # beside the clients: listeners, standard streams, those who only shake hands


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop; return the exit code."""
    parser = _build_parser()
    options = parser.parse_args(argv)
    logs.configure(options.log_level, options.log_format)
    try:
        config = _config(options)
    except ConfigError as error:
        parser.error(str(error))
    try:
        return _serve(config)
    except (ListenError, OSError) as error:  # OSError: such as standard output that cannot be written
        print(f"{parser.prog}: {error}", file=sys.stderr)
    except MemoryError:
        print(f"{parser.prog}: out of memory", file=sys.stderr)
    return 1


def _serve(config: Config) -> int:
    _raise_descriptor_limit(config.capacity + SPARE_DESCRIPTORS)
    server = Server(config)
    try:
        with _signals(server):
            for address in server.listen():
                print(f"listening on {address}", flush=True)
            server.run()
    finally:
        server.close()
    return 0


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the server, and the second one of them end the program at once.

    The handlers do nothing themselves: a signal arrives in the loop as a byte in a socket, so that it
    never comes between two steps of a turn. Afterwards they are blocked: one that comes while the
    interpreter ends must not turn a clean exit into another.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    reader, writer = socket.socketpair()
    received = 0

    def on_signal() -> None:
        nonlocal received
        received += len(reader.recv(64))
        if received > 1:
            os._exit(130)
        server.stop()

    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        server.on_readable(reader, on_signal)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _raise_descriptor_limit(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        logs.event(logging.WARNING, "too few descriptors", needed=needed, limit=hard)
        needed = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _config(options: argparse.Namespace) -> Config:
    if not options.insecure:
        try:
            loopback = listeners.is_loopback(options.host)
        except ListenError as error:
            raise ConfigError(f"argument --host: {error}") from None
        if not loopback:
            raise ConfigError(
                f"argument --host: {options.host} is not a loopback address, and commands would travel in "
                "the clear, for anybody to send: add --insecure to serve it nevertheless"
            )
    if options.max_backlog < 2 * options.max_line:
        raise ConfigError(f"argument --max-backlog: {options.max_backlog} is less than two times --max-line")
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
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="rankserver",
        description="Rank up to N clients first come, first served, and broadcast what each commands.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("capacity", metavar="N", type=arguments.whole(1), help="how many clients it accepts")
    add("--host", default=Config.host, help="address or name to listen on")
    add("--port", type=arguments.whole(0, 65_535), default=Config.port, help="TCP port; 0 picks one")
    add("--unix", metavar="PATH", type=_path, help="listen on this Unix socket as well")
    add(
        "--handshake-timeout",
        metavar="S",
        type=arguments.seconds(0.001),
        default=5,
        help="seconds to say HELLO",
    )
    add(
        "--heartbeat",
        metavar="S",
        type=arguments.seconds(0),
        default=Config.heartbeat,
        help="PING after so many seconds of silence, drop after twice that; 0: never",
    )
    add(
        "--max-line",
        metavar="B",
        type=arguments.whole(protocol.MIN_MAX_LINE, protocol.MAX_MAX_LINE),
        default=Config.max_line,
        help="bytes in the longest line from a client",
    )
    add(
        "--max-backlog",
        metavar="B",
        type=arguments.whole(1),
        default=Config.max_backlog,
        help="take no commands while a client is more bytes behind",
    )
    add(
        "--slow-timeout",
        metavar="S",
        type=arguments.seconds(0.001),
        default=Config.slow_timeout,
        help="drop a client that stays so far behind for S seconds",
    )
    add(
        "--max-per-address",
        metavar="N",
        type=arguments.whole(0),
        default=Config.max_per_address,
        help="connections from one address; 0: any number",
    )
    add("--insecure", action="store_true", help="serve addresses that are not loopback")
    add("--log-level", choices=logs.LEVELS, default="info", help="what is logged to standard error")
    add("--log-format", choices=logs.FORMATS, default="text", help="how")
    add("--version", action="version", version=f"rankserver {__version__}")
    return parser


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text
