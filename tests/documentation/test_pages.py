"""The documentation's pages: their links lead somewhere, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documentation.snippets import PAGES, ROOT


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


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


def test_pages_and_figures_that_code_names_exist():
    folders = ("ibisa_onnx", "exporters", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    named = {
        name
        for path in files
        for name in re.findall(r"docs/[\w-]+/[\w-]+\.(?:md|png|jpg)", path.read_text())
    }
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
