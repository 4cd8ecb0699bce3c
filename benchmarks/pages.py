"""Generated parts of pages: what stands between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

from pathlib import Path


def put(page: Path, name: str, text: str, introduction: str = "") -> None:
    """Put a generated part between its markers; a page without them gets them at its end.

    `introduction` is what a page begins with that is not there yet.
    """
    whole = page.read_text() if page.exists() else introduction
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in whole:
        whole += f"\n{start}\n{end}\n"
    before, rest = whole.split(start, 1)
    page.write_text(f"{before}{start}\n\n{text}\n{end}{rest.split(end, 1)[1]}")
