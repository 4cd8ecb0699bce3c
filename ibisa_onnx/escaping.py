"""Text that others wrote, made safe to show on one line of a terminal or of a log.

Labels, names of tensors and files, and metadata may hold line breaks, escape sequences, and marks
that turn the order of what follows. In what is shown they are written as Python would write them.
"""

from __future__ import annotations

import unicodedata

# Other, control; format; surrogate; private use; not assigned; line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Format characters that scripts and emoji are written with: the (non-)joiners.
_WRITTEN = frozenset("\u200c\u200d")
_CUT = " … "


def escaped(text: str) -> str:
    r"""Return text on one line, its control characters and the like written out: `\x1b`, `\n`.

    Tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def shortened(text: str, most: int) -> str:
    """Return text of at most `most` characters: what is too much is taken out behind the middle."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail - len(_CUT)]}{_CUT}{text[-tail:]}"


def _shown(character: str) -> str:
    if character == "\t":
        return " "
    if unicodedata.category(character) in _HIDDEN and character not in _WRITTEN:
        return character.encode("unicode_escape").decode()
    return character
