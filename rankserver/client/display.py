"""Make text from other clients safe to show on a terminal."""

from __future__ import annotations

import re

# Control characters except TAB, line separators, characters that change the direction of text, and lone
# surrogates.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Escape the characters that could move the cursor, reorder the text, or fail to be encoded."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
