"""The fixed words of the protocol: the codes of ``BYE`` and ``ERR``, and the statuses of answers.

What each of them means: docs/protocol.md, "Codes" and "Answers".
"""

from __future__ import annotations

from typing import Final

# Codes on BYE.
FULL: Final = "full"
AUTH: Final = "auth"
PROTO: Final = "proto"
TIMEOUT: Final = "timeout"
TOO_LONG: Final = "too-long"
SLOW: Final = "slow"
SHUTDOWN: Final = "shutdown"
RESUME: Final = "resume"

# Codes on ERR.
BAD_FRAME: Final = "bad-frame"
NO_SUCH_ASK: Final = "no-such-ask"

STATUSES: Final = ("ok", "fail", "refused", "denied", "timeout")
