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
_DELETE = "\x7f"


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
    return character.encode("unicode_escape").decode() if _is_hidden(character) else character


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _WRITTEN


def escaped_json(text: str) -> str:
    r"""Return JSON in which what `escaped` writes out is written as JSON does: `\u202e`.

    Such characters are only within its strings, where `json` itself writes out those below a space.
    """
    if text.isascii() and _DELETE not in text:
        return text
    return "".join(map(_in_json, text))


def _in_json(character: str) -> str:
    if character < _DELETE or not _is_hidden(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
