"""What others sent, made safe to show on a terminal."""

from __future__ import annotations

import re

# Control characters but TAB, line separators, what changes the direction of text, and lone surrogates.
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Make visible what could move the cursor, reorder text, or fail to be encoded."""
    return _UNFIT.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
