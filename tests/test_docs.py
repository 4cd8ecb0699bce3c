"""The documentation: its Python blocks run on the embedded model, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RUN = ("reference/targets.md", "how-to/objectives.md", "how-to/batches.md", "reference/methods.md")
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
SHELL = ("ibisa-onnx ", "make ", "pip ", "python ")
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield each indented block that is not a shell's, with the number of its first line.

    Left out is what stands after a comment that says why: `<!-- not run: REASON -->`.
    """
    before, lines = "", text.splitlines()
    start = 0
    while start < len(lines):
        if not lines[start].startswith("    "):
            before = lines[start].strip() or before
            start += 1
            continue
        end = start
        while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
            end += 1
        code = "\n".join(line[4:] for line in lines[start:end])
        if not code.startswith(SHELL) and not NOT_RUN.fullmatch(before):
            yield start + 1, code
        start, before = end, ""


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", RUN)
def test_every_python_block_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Block by block in one namespace, so that a later one may use what an earlier one made."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    found = list(blocks((ROOT / "docs" / page).read_text()))
    assert found
    for line, code in found:
        source = "\n" * (line - 1) + code  # so that a traceback names the line of the page
        exec(compile(source, page, "exec", dont_inherit=True), namespace)


def test_what_is_a_block():
    text = (
        "Say:\n\n    a = 1\n\n    b = 2\n\nor\n\n    make demo\n\n<!-- not run: slow -->\n\n    c\n"
    )
    assert [(line, code.split()) for line, code in blocks(text)] == [
        (3, ["a", "=", "1", "b", "=", "2"])
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str):
    path = ROOT / page
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()
    ):
        linked = (path.parent / target) if target else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def test_the_architecture_names_what_there_is():
    """Each `file.py: name` of the page, and each table or function that it sends one to."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    found = re.findall(r"`([\w/]+/\w+\.py|\w+\.py)(?:: ([\w.]+))?`", text)
    assert len(found) > 50
    for file, name in found:
        homes = (ROOT, ROOT / "ibisa_onnx", ROOT / "ibisa_onnx/preprocessing/sources")
        code = next(path for home in homes if (path := home / file).exists()).read_text()
        for part in filter(None, name.split(".")):
            assert re.search(rf"^ *(def|class) {part}\b|^{part}\b", code, re.MULTILINE), (
                file,
                name,
            )
