"""Every command and every Python block of the documentation runs, on files that stand in."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from documentation.snippets import (
    DATA,
    LANGUAGES,
    PAGES,
    ROOT,
    Block,
    blocks,
    indented_code,
    run_blocks,
)
from documentation.stand_ins import write_all

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SHELL = re.compile(r"[|<>;&$`(]|^\w+=")
PAGES_WITH = {
    language: [
        page
        for page in PAGES
        if any(each.language == language for each in run_blocks((ROOT / page).read_text()))
    ]
    for language in ("bash", "python")
}


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages name."""
    folder = tmp_path_factory.mktemp("stand-ins")
    write_all(folder)
    return folder


@pytest.fixture
def here(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


def check_make(words: list[str]) -> None:
    """Targets exist; they are not made here."""
    made = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [each for each in words[1:] if "=" not in each and each not in made] == []


def check_pip(words: list[str]) -> None:
    """Extras of this package exist; nothing is installed here."""
    for extras in re.findall(r"(?:\.|ibisa-onnx)\[([^]]+)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(EXTRAS)


def check_script(words: list[str]) -> None:
    """Scripts of this repository exist; what they measure takes hours."""
    assert (ROOT / words[1]).is_file(), words[1]


CHECKED: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "pip": check_pip,
    "python": check_script,
}
"""Commands that are looked at, and not run, by their first word."""


@pytest.mark.parametrize("page", PAGES_WITH["bash"])
def test_every_command_of_a_page_runs(page: str, here: Path, cli: Callable[..., Any]):
    for block in run_blocks((ROOT / page).read_text()):
        for command in block.commands if block.language == "bash" else ():
            last = command == block.commands[-1]
            run_command(command, block.exit_code if last else 0, f"{page}:{block.line}", cli)


def run_command(command: str, expected: int, where: str, cli: Callable[..., Any]) -> None:
    """Run a command, or check what is not run."""
    words = shlex.split(command)
    checked = CHECKED.get(words[0])
    if checked and words[1:2] != ["-c"] and words[1:2] != ["-m"]:
        checked(words)
    elif words[0] == "ibisa-onnx" and not SHELL.search(command):
        paths = [path for word in words[1:] for path in expanded(word)]
        result = cli(*paths)
        assert result.code == expected, f"{where}: {command}\n{result.err}"
    else:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ran = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == expected, f"{where}: {command}\n{ran.stderr}"


def expanded(word: str) -> list[str]:
    """Return what a shell makes of a pattern of file names."""
    return sorted(str(each) for each in Path().glob(word)) if "*" in word else [word]


@pytest.mark.parametrize("page", PAGES_WITH["python"])
def test_every_python_block_of_a_page_runs(page: str, here: Path):
    """Block by block in one namespace, so that a later one may use what an earlier one made."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in run_blocks((ROOT / page).read_text()):
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.code  # so that a traceback names the line
            exec(compile(source, page, "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page: str):
    text = (ROOT / page).read_text()
    assert [each.line for each in blocks(text) if each.language not in LANGUAGES | DATA] == []
    assert list(indented_code(text)) == []


TEXT = """Intro:

```bash
make demo   # builds
ibisa-onnx run "a b.onnx" \\
    photo.jpg
```

<!-- not run: needs a GPU -->

```bash
ibisa-onnx doctor
```

- item

  ```python
  a = 1
  ```

<!-- exit code: 1 -->
```bash
ibisa-onnx run missing.onnx
```
"""


def test_blocks_are_found_with_their_remarks():
    found = list(blocks(TEXT))
    assert [(each.language, each.line) for each in found] == [
        ("bash", 4),
        ("bash", 12),
        ("python", 18),
        ("bash", 23),
    ]
    assert found[0].commands == ["make demo", 'ibisa-onnx run "a b.onnx"      photo.jpg']
    assert found[1].remark == ("not run", "needs a GPU")
    assert found[2].code == "a = 1"
    assert found[3].exit_code == 1
    assert list(run_blocks(TEXT)) == [found[0], found[2], found[3]]


def test_a_command_that_fails_is_found(here: Path, cli: Callable[..., Any]):
    for command in ("ibisa-onnx run no.onnx photo.jpg", "cat missing | cat", "make nothing-of-it"):
        with pytest.raises(AssertionError):
            run_command(command, 0, "page", cli)


def test_indented_code_is_found():
    text = "One:\n\n    code\n\n- item\n\n    of the item\n\n!!! note\n\n    of the note\n"
    assert list(indented_code(text)) == ["    code"]
    assert isinstance(next(blocks("```text\nx\n```\n")), Block)


def test_a_fence_that_would_not_be_run_is_found():
    for fence in ("~~~bash", "````bash"):
        with pytest.raises(AssertionError, match="three backticks"):
            list(blocks(f"{fence}\nibisa-onnx run\n"))
