"""SOURCE, as a user writes it: which exporter reads it, and what it is called."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path

from ibisa_exporters.trained import Exporter, Request, TrainedModel
from ibisa_onnx.errors import ExportError

# By the word before the colon, and by the end of a file's name: the module that has `load`.
_FRAMEWORKS = {"torchvision": "torchvision", "timm": "timm", "hf": "huggingface"}
_FILES = {".pt2": "program", ".keras": "keras", ".h5": "keras"}
_FACTORY = re.compile(r".+\.py:\w+")
_HINTS = {
    ".py": "name the function that returns the network: ",
    ".onnx": "it is an ONNX model already, which `ibisa-onnx annotate` writes into; else ",
}
_KINDS = (
    "torchvision:NAME, timm:NAME, hf:NAME, hf:FOLDER, path/module.py:factory, model.pt2 "
    "or model.keras"
)


def load_source(source: str, request: Request) -> TrainedModel:
    """Load what SOURCE names; of code of the user's own, within `importable`.

    Raises
    ------
    ExportError
        It is no source, or cannot be loaded.
    MissingDependencyError
        Its framework is not installed.
    """
    check_source(source, request)
    exporter, name = _choose(source)
    load: Exporter = import_module(f"ibisa_exporters.{exporter}").load
    return load(name, request)


def importable(source: str) -> AbstractContextManager[None]:
    """Let code that SOURCE names import what lies beside it, for as long as it is loaded and run.

    No other source is given these modules for its own after that.
    """
    exporter, name = _choose(source)
    if exporter != "factory":
        return nullcontext()
    from ibisa_exporters.factory import importable_beside

    return importable_beside(Path(name))


def check_source(source: str, request: Request) -> None:
    """See that SOURCE is one, and a number of classes given only where weights may have it.

    Raises
    ------
    ExportError
        It is not so: it was written wrongly, for nothing has been looked for yet.
    """
    exporter, _ = _choose(source)
    if request.classes is None:
        return
    if exporter not in _FRAMEWORKS.values():
        raise ExportError(f"{source} has the classes that it has; leave classes= out")
    if request.weights == "default":
        raise ExportError(
            f"published weights of {source} have their own classes; leave classes= out, or give "
            "weights=FILE or 'none'"
        )


def default_file(source: str) -> Path:
    """Name the file to write: beside a file, else in the folder one is in."""
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
    """Return the exporter's module, and what it shall load."""
    kind, colon, name = source.partition(":")
    if colon and kind in _FRAMEWORKS:
        if not name:
            raise ExportError(f"{source!r} names no model; give {kind}:NAME")
        return _FRAMEWORKS[kind], name
    if _FACTORY.fullmatch(source):
        return "factory", source
    if Path(source).suffix in _FILES:
        return _FILES[Path(source).suffix], source
    hint = _HINTS.get(Path(source).suffix, "")
    raise ExportError(f"{source!r} is no source; {hint}give {_KINDS}")
