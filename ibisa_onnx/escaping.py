"""Untrusted text made safe to show on one line of a terminal or a log.

Labels, tensor and file names, and metadata may contain line breaks, escape sequences and
characters that reverse the order of the text after them. They are shown as Python escapes.
"""

from __future__ import annotations

import unicodedata

# Other, control; format; surrogate; private use; not assigned; line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Format characters that scripts and emoji require: the (non-)joiners.
_WRITTEN = frozenset("\u200c\u200d")
_CUT = " … "
_DELETE = "\x7f"


def escaped(text: str) -> str:
    r"""Return text on one line, with control and invisible characters escaped: `\x1b`, `\n`.

    Tabs become spaces.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def shortened(text: str, most: int) -> str:
    """Return text of at most `most` characters; a longer one is cut in its second half."""
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
    r"""Return JSON with the characters that `escaped` escapes written as JSON escapes: `\u202e`.

    They occur only inside strings, where `json` itself escapes control characters below U+0020.
    """
    if text.isascii() and _DELETE not in text:
        return text
    return "".join(map(_in_json, text))


def _in_json(character: str) -> str:
    if character < _DELETE or not _is_hidden(character):
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
