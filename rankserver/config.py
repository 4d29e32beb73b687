"""The settings of one server; ``cli`` makes them from the command line, and its ``--help`` explains them."""

from __future__ import annotations

from dataclasses import dataclass

from rankserver.wire import protocol


@dataclass(frozen=True)
class Config:
    """Settings of one server.

    Times are in seconds and sizes in bytes. Where 0 is allowed, it means never or no limit. Where None is
    allowed for a number, the server chooses it.
    """

    capacity: int
    host: str = "127.0.0.1"
    port: int = 5050
    unix: str | None = None
    handshake_timeout: float = 5
    heartbeat: float = 30
    max_line: int = protocol.DEFAULT_MAX_LINE
    max_backlog: int = 64 * 1024 * 1024
    slow_timeout: float = 5
    max_per_address: int | None = None
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
