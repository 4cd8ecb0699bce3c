"""Words that no flag takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hostile.base import ODD_WORDS, RUN, write
from hostile.case import Case

_FAMILY = "flags"
_FLAGS = (
    *("-t", "--size", "--shorter-side", "--mean", "--std", "--scale", "--seed", "--box", "--at"),
    *("--region", "--char", "--index", "--labels", "--preprocess", "--extra-input", "--baseline"),
    *("--deadline-ms", "--budget", "--blur", "--surrogate", "--versus", "--like", "--output"),
    *("--input", "--provider", "--threads", "--confidence", "--gradcam-layer", "-o"),
)


def make() -> Iterator[Case]:
    for flag in _FLAGS:
        for number, word in enumerate(ODD_WORDS):
            if (number + len(flag)) % 2 == 0 or flag in ("-t", "--size", "--extra-input"):
                yield Case(_FAMILY, f"{flag}-{number}", _build(flag, word))


def _build(flag: str, word: str):
    def build(folder: Path) -> tuple[str, ...]:
        write(folder)
        given = f"bias={word}" if flag == "--extra-input" else word
        words = (*RUN[:5], "--threads", "1") if flag == "-o" else RUN
        return (*words, flag, given)

    return build
