"""Parsing of SOURCE: which exporter loads it, and default names."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path

from ibisa_exporters.trained import Exporter, Request, TrainedModel
from ibisa_onnx.errors import ExportError

# Modules with `load`, by the word before the colon, and by file suffix.
_FRAMEWORKS = {"torchvision": "torchvision", "timm": "timm", "hf": "huggingface"}
_FILES = {".pt2": "program", ".keras": "keras", ".h5": "keras"}
_FACTORY = re.compile(r".+\.py:\w+")
_HINTS = {
    ".py": "a Python file requires the name of a function, FILE.py:factory; ",
    ".onnx": "it is already an ONNX model, to which `ibisa-onnx annotate` adds metadata; ",
}
_KINDS = (
    "torchvision:NAME, timm:NAME, hf:NAME, hf:FOLDER, path/module.py:factory, model.pt2 "
    "or model.keras"
)


def load_source(source: str, request: Request) -> TrainedModel:
    """Load the network that SOURCE names; a user's own code requires the context `importable`.

    Raises
    ------
    ExportError
        SOURCE is invalid, or cannot be loaded.
    MissingDependencyError
        Its framework is not installed.
    """
    check_source(source, request)
    exporter, name = _choose(source)
    load: Exporter = import_module(f"ibisa_exporters.{exporter}").load
    return load(name, request)


def importable(source: str) -> AbstractContextManager[None]:
    """Let code that SOURCE names import modules beside it, while it is loaded and run.

    The modules are forgotten afterwards, so that no other source receives them.
    """
    exporter, name = _choose(source)
    if exporter != "factory":
        return nullcontext()
    from ibisa_exporters.factory import importable_beside

    return importable_beside(Path(name))


def check_source(source: str, request: Request) -> None:
    """Check the syntax of SOURCE, and that `classes` is used only where it can apply.

    Raises
    ------
    ExportError
        SOURCE is invalid, or conflicts with `classes`. No file has been read yet.
    """
    exporter, _ = _choose(source)
    if request.classes is None:
        return
    if exporter not in _FRAMEWORKS.values():
        raise ExportError(f"the number of classes of {source} is fixed; omit classes=")
    if request.weights == "default":
        raise ExportError(
            f"the published weights of {source} have their own classes; omit classes=, or pass "
            "weights=FILE or weights='none'"
        )


def default_file(source: str) -> Path:
    """Return the default file to write: beside a file, else in the working directory."""
    exporter, name = _choose(source)
    if exporter in _FILES.values():
        return Path(name).with_suffix(".onnx")
    if exporter == "factory":
        path, _, function = name.rpartition(":")
        return Path(path).with_name(f"{function}.onnx")
    folder = Path(name)
    last = folder.name if folder.name not in ("", "..") else folder.resolve().name
    return Path(f"{last}.onnx")


def source_file(source: str) -> Path | None:
    """Return the file that SOURCE names, which must not be overwritten."""
    exporter, name = _choose(source)
    if exporter == "factory":
        return Path(name.rpartition(":")[0])
    return Path(name) if exporter in _FILES.values() else None


def _choose(source: str) -> tuple[str, str]:
    """Return the exporter's module, and the name to load."""
    kind, colon, name = source.partition(":")
    if colon and kind in _FRAMEWORKS:
        if not name:
            raise ExportError(f"{source!r} names no model; specify {kind}:NAME")
        return _FRAMEWORKS[kind], name
    if _FACTORY.fullmatch(source):
        return "factory", source
    if Path(source).suffix in _FILES:
        return _FILES[Path(source).suffix], source
    hint = _HINTS.get(Path(source).suffix, "")
    raise ExportError(f"{source!r} is not a valid source; {hint}specify {_KINDS}")
