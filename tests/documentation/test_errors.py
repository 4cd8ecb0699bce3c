"""The page of errors and warnings: every message that it quotes is one of the code's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from documentation.snippets import ROOT
from ibisa_onnx.commands.flags import with_flags

PAGE = ROOT / "docs" / "reference" / "errors.md"
ELLIPSIS = "…"  # a name or value
LEAST = 60


def quoted() -> list[str]:
    """Return the messages in the first column of the page's tables of messages."""
    cells = re.findall(r"^\| (`[^|]*) \| [^|]* \| [^|]* \|$", PAGE.read_text(), re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]


def texts() -> Iterator[str]:
    """Yield the texts of the code but docstrings, values as ellipses and arguments as flags."""
    for package in ("ibisa_onnx", "exporters"):
        for path in (ROOT / package).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            docstrings = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}
            for node in nodes:
                if isinstance(node, ast.JoinedStr):
                    yield with_flags("".join(map(_part, node.values)))
                elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                    yield with_flags(str(node.value).replace("{}", ELLIPSIS))


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ELLIPSIS


def test_every_message_of_the_page_is_in_the_code():
    messages, code = quoted(), "\n".join(texts())
    assert len(messages) > LEAST
    parts = {message: map(str.strip, re.split(r"[(:]? ?…[):]* ?", message)) for message in messages}
    assert [each for each, found in parts.items() if any(part not in code for part in found)] == []
