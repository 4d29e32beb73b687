"""The real server with other bounds on asks, so low that the clients of a test reach them."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Final

import rankserver.state
from rankserver import asks, cli

# The most open asks of a client.
MAX_ASKS: Final = 3
# The most asks of clients that have left.
MAX_ORPHANS: Final = 5

if __name__ == "__main__":
    state: Any = rankserver.state
    state.AskTable = partial(asks.AskTable, MAX_ASKS, MAX_ORPHANS)
    sys.exit(cli.main())
