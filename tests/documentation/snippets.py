"""The code of the documentation: fenced blocks of pages, and how each is run.

A block of another language than `bash` or `python` is output or data, and is not run. A comment
before a block says what differs from the rule that it runs and exits with 0:
`<!-- not run: REASON -->` or `<!-- exit code: N -->`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
LANGUAGES = {"bash", "python"}
DATA = {"json", "text", "toml", "yaml"}
"""Languages of blocks that show output or files."""
_FENCE = re.compile(r"^( *)```(\S*)$")
_OTHER_FENCE = re.compile(r"^ *(````|~~~)")
_REMARK = re.compile(r"<!-- (not run|exit code): (\S.*) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, its first line's number, and the remark before it."""

    language: str
    code: str
    line: int
    remark: tuple[str, str] | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of its last command."""
        kind, value = self.remark or ("", "")
        return int(value) if kind == "exit code" else 0

    @property
    def commands(self) -> list[str]:
        """The commands of a `bash` block: continued lines joined, comments left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for each in lines if (line := _without_comment(each))]


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    lines = text.splitlines()
    odd = [line for line in lines if _OTHER_FENCE.match(line)]
    assert not odd, f"a fence of three backticks is expected: {odd[0]}"
    before, at = "", 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if not fence:
            before = lines[at].strip() or before
            at += 1
            continue
        closing = (n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
        end = next(closing, len(lines))
        indent = len(fence[1])
        code = "\n".join(line[indent:] for line in lines[at + 1 : end])
        found = _REMARK.fullmatch(before)
        yield Block(fence[2], code, at + 2, (found[1], found[2]) if found else None)
        before, at = "", end + 1


def run_blocks(text: str) -> Iterator[Block]:
    """Yield those that are run."""
    for block in blocks(text):
        if block.language in LANGUAGES and (block.remark or ("",))[0] != "not run":
            yield block


def indented_code(text: str) -> Iterator[str]:
    """Yield what Markdown shows as code without a fence, and so without a language."""
    inside, holder = False, False
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        if _FENCE.match(line):
            inside = not inside
        elif not inside and line.strip():
            if not line.startswith("    "):
                holder = bool(re.match(r" *([-*+]|\d+\.|!!!|\?\?\?)", line)) or (
                    holder and line.startswith(" ")
                )
            elif not before.strip() and not holder:
                yield line


def _without_comment(line: str) -> str:
    """Return a command without the comment at its end."""
    words = shlex.split(line, comments=True)
    return re.sub(r"\s+#\s.*$", "", line).strip() if words else ""
