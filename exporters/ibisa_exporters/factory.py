"""`module.py:factory`: a user's function that returns an `nn.Module`.

The network or the function may have the attributes `preprocessing` (a `Preprocessing`, a dict of
its fields, a preset's name or a file), `labels` (a list or a file) and `input_size` (pixels: one
number, or height and width). Files are relative to the module's folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ibisa_exporters.trained import SIDE, Request, TrainedModel, of_size, sides_of, spec_of
from ibisa_exporters.weights import load_weights, seeded
from ibisa_onnx.errors import ExportError
from ibisa_onnx.preprocessing.sources.base import Layer, parse_layer
from ibisa_onnx.preprocessing.sources.files import read_spec_file
from ibisa_onnx.preprocessing.spec import PRESETS, Preprocessing
from ibisa_onnx.targets.labels import read_labels


def load(name: str, request: Request) -> TrainedModel:
    """Call a factory given as `path/module.py:factory`."""
    path, _, function = name.rpartition(":")
    factory = _import(Path(path), function)
    with seeded(request.seed):
        module = _call(factory, name)
    if request.file is not None:
        load_weights(module, request.file)

    def said(attribute: str) -> Any:
        own = getattr(module, attribute, None)
        own = None if isinstance(own, nn.Module) else own  # a submodule of that name
        return getattr(factory, attribute, None) if own is None else own

    folder = Path(path).parent
    own = _size(said("input_size"))
    spec = _spec(said("preprocessing"), own, folder)
    size = request.size or own or (spec.size if spec else (SIDE, SIDE))
    example = torch.zeros(1, spec.channels if spec else 3, *size)
    labels = _labels(said("labels"), folder)
    return TrainedModel(function, module.eval(), example, spec and of_size(spec, size), labels)


def _spec(value: Any, size: tuple[int, int] | None, folder: Path) -> Preprocessing | None:
    """Read a preprocessing: a spec, a dict of its fields, a preset's name, or a file."""
    if value is None or isinstance(value, Preprocessing):
        return value
    if isinstance(value, Mapping):
        return spec_of(parse_layer("preprocessing", value), size)
    if isinstance(value, str) and value in PRESETS:
        return spec_of(Layer(value, {}, value), size)
    if isinstance(value, str | Path):
        return spec_of(read_spec_file(folder / value), size)
    raise ExportError(
        f"preprocessing is a {type(value).__name__}; "
        "use a Preprocessing, a dict of its fields, a preset's name or a file"
    )


def _size(value: Any) -> tuple[int, int] | None:
    """Read an input size; None if it is not specified."""
    size = sides_of(value)
    if value is not None and size is None:
        raise ExportError(f"input_size is {value!r}; use pixels: one number, or (height, width)")
    return size


def _labels(value: Any, folder: Path) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str | Path):
        return read_labels(folder / value)
    if not isinstance(value, tuple | list):
        raise ExportError(f"labels is a {type(value).__name__}; use a list of names, or a file")
    return tuple(map(str, value))


def _import(path: Path, function: str) -> Callable[..., Any]:
    """Execute a Python file and return one of its functions."""
    if not path.is_file():
        raise ExportError(f"file not found: {path}; specify path/module.py:factory")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ExportError(f"{path} is not a Python file; specify path/module.py:factory")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and others look up their module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ExportError(f"{path} cannot be imported: {_first_line(error)}") from error
    factory = getattr(module, function, None)
    if not callable(factory):
        public = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == path.stem
        ]
        raise ExportError(
            f"{path} has no function {function!r}; choose from: {', '.join(public) or 'none'}"
        )
    if isinstance(factory, nn.Module):  # calling it would run it
        raise ExportError(f"{path}:{function} is a network; specify a function that returns it")
    return factory  # type: ignore[no-any-return]


def _call(factory: Callable[..., Any], name: str) -> nn.Module:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            module = factory()
    except (Exception, SystemExit) as error:
        raise ExportError(
            f"{name} failed when called without arguments: {_first_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise ExportError(f"{name} returned a {type(module).__name__}; return an nn.Module")
    return module.cpu().float()


@contextlib.contextmanager
def importable_beside(path: Path) -> Iterator[None]:
    """Let a file import modules beside it, and forget these modules afterwards."""
    place, before = path.parent.resolve(), dict(sys.modules)
    sys.path.insert(0, str(place))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # removed by the file itself
            sys.path.remove(str(place))
        new = {name for name, module in sys.modules.items() if before.get(name) is not module}
        guests = {name for name in new if _lies_in(place, sys.modules[name.partition(".")[0]])}
        for name in guests:
            del sys.modules[name]
        sys.modules.update({name: before[name] for name in guests & before.keys()})


def _lies_in(folder: Path, module: ModuleType) -> bool:
    """Return whether a module is a file or package directly in a folder."""
    found = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(Path(each).resolve().parent == folder for each in found if each)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
