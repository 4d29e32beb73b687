"""What the server is told to be; ``cli`` makes it from the command line and says what each option means."""

from __future__ import annotations

from dataclasses import dataclass

from rankserver.wire import protocol


@dataclass(frozen=True)
class Config:
    """What the server is told to be, in seconds and bytes; 0 is never, or no limit, where it makes sense."""

    capacity: int
    host: str = "127.0.0.1"
    port: int = 5050
    unix: str | None = None
    handshake_timeout: float = 5
    heartbeat: float = 30
    max_line: int = protocol.DEFAULT_MAX_LINE
    max_backlog: int = 64 * 1024 * 1024
    slow_timeout: float = 5
    max_per_address: int = 0
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
