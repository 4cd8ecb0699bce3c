"""Maps of characters that were read: how far each lies from where its character was drawn.

Also the names of characters, where a package keeps them beside its model.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import ibisa_onnx as ibisa
from field_set.case import Finding, Work, say
from field_set.drawing import Line, Pixels, draw_line
from field_set.measures import centre

WORDS = (
    *("Hello world", "Invoice 2023", "Total 48.75", "Quick brown", "Patient ID", "Museum"),
    *("jumps over", "Room 7395", "Ludwigstr 5", "RX 40 mg", "lazy dog", "Main Street"),
)


def characters(work: Work, texts: Sequence[str], size: tuple[int, int], most: int) -> Finding:
    """Explain the characters that were read of drawn lines, and see where their maps lie.

    Counted are lines that were read right, but for blanks between words, until `most` characters
    are explained.
    """
    wrong, answers = 0, 0
    off: list[tuple[float, float]] = []
    more: dict[str, ibisa.Explanation] = {}
    for number, text in enumerate(texts):
        line = draw_line(text, size, number)
        path = line.image if more else work.write(line.image)
        read = read_characters(work.explainer, path)
        if "".join(read).replace(" ", "").casefold() != text.replace(" ", "").casefold():
            wrong += 1
            say(f"  {text!r} was read as {''.join(read)!r}")
            continue
        answers = answers or len(read)
        numbers = [n for n, each in enumerate(read, 1) if each.strip()]
        found = work.explainer.explain_all(path, [ibisa.TextTarget(char=n) for n in numbers])
        off += _distances(line, found)
        more |= {f"{text} {n}": each for n, each in zip(numbers, found, strict=True)}
        if len(off) >= most:
            break
    if not more:
        raise ValueError(f"{work.case.model} read none of the lines")
    return Finding(list(more.values())[2], answers, _where(off, wrong), more)


def _distances(line: Line, found: Sequence[ibisa.Explanation]) -> Iterator[tuple[float, float]]:
    """Yield how far each map's centre of mass and its peak are from the character, in widths."""
    places = (place for each, place in zip(line.text, line.places, strict=True) if each != " ")
    for each, place in zip(found, places, strict=True):
        middle, peak = sum(place) / 2, int(each.map.max(0).argmax()) + 0.5
        yield abs(centre(each.map) - middle) / line.width, abs(peak - middle) / line.width


def _where(off: Sequence[tuple[float, float]], wrong: int) -> str:
    near, peaks = (np.array(off) <= 1).sum(0)
    where = (
        f"within a character's width of {len(off)} characters are the map's centre of mass for "
        f"{near} and its peak for {peaks}; the centre is {np.median(off, 0)[0]:.2f} widths off in "
        "the median"
    )
    return where + (f"; {wrong} lines misread, left out" if wrong else "")


def read_characters(explainer: ibisa.Explainer, picture: Path | Pixels) -> list[str]:
    """Return the characters that were read, in their order."""
    return [each.caption for each in explainer.answers(picture) if each.number is not None]


# -- names of characters


def paddle_names(package: Path) -> list[str]:
    """Return the characters of PP-OCR's dictionary, which names neither the blank nor the space."""
    (path,) = package.rglob("ppocrv5_dict.txt")
    return path.read_text(encoding="utf8").removesuffix("\n").split("\n")


def captcha_names(package: Path) -> list[str]:
    """Return digits, capitals and, last, the blank."""
    return [*"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", "blank"]


def dddd_names(package: Path) -> list[str]:
    """Return the list that stands in the package's source; its first, empty, is the blank."""
    (path,) = package.rglob("charset_manager.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "_get_beta_charset":
            lists = [each for each in ast.walk(node) if isinstance(each, ast.List)]
            names = max((ast.literal_eval(each) for each in lists), key=len)
            return ["blank", *names[1:]]
    raise ValueError(f"{path} has no list of characters")
