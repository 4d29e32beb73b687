"""Make text from other clients safe to show on a terminal."""

from __future__ import annotations

import re

# Everything but TAB and printable ASCII.
_OTHERS = re.compile(r"[^\t -~]")
# Characters that Python counts as printable, but that show nothing: those of Unicode's
# Default_Ignorable_Code_Point that are not in a category of control, format or unassigned characters, and the
# blanks U+2800 and U+1D159.
_BLANKS = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    r"\U0001d159\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """Escape every character that could not be seen, or could not be told from a space.

    These are the characters of Unicode's categories Other (control, format, surrogate, private use,
    unassigned) and Separator, except space and TAB, and the default ignorable ones, such as variation
    selectors. Among them are those that move the cursor, reorder the text, or cannot be encoded. Emoji that
    contain some of them fall apart, because text that differs must look different.
    """
    # Almost all text passes these two checks, which are much faster than a look at each character.
    if text.isprintable() and not _BLANKS.search(text):
        return text
    return _OTHERS.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    # str.isprintable is False for exactly these two categories (but for the space).
    if character.isprintable() and not _BLANKS.match(character):
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
