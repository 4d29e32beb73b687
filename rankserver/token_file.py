"""Reading a file that holds tokens, for the server as for its clients."""

from __future__ import annotations

import os
import stat

from rankserver.wire.exceptions import ConfigError


def read_token_file(path: str) -> str:
    """Return the text of a token file.

    Raises:
        ConfigError: the file cannot be read, is not a regular file, is open to others, or is not UTF-8. The
            message contains nothing of the text.
    """
    try:
        with open(path, encoding="utf-8-sig", opener=_open) as file:
            mode = os.fstat(file.fileno()).st_mode
            # The writer of a FIFO, for example, may take any time, or never finish.
            if not stat.S_ISREG(mode):
                raise ConfigError(f"the token file {path} is not a regular file")
            if mode & stat.S_IRWXO:
                raise ConfigError(
                    f"the token file {path} is open to others (mode {mode & 0o777:o}): chmod o= {path}"
                )
            return file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the token file {path} is not UTF-8") from None


def _open(path: str, flags: int) -> int:
    """Open without blocking: a server that reloads its files must go on serving its clients."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
