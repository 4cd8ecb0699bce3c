"""`module.py:factory`: a function of the user's own that returns an `nn.Module`.

The network, or the function, may say more by attributes: `preprocessing` (a `Preprocessing`, a dict
of its fields, a preset's name or a file), `labels` (a list, or a file) and `input_size` (pixels:
one number, or height and width).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporters.trained import SIDE, Request, TrainedModel, as_spec, of_size
from exporters.weights import load_weights, seeded
from ibisa_onnx.errors import ExportError
from ibisa_onnx.model import Preprocessing, read_labels


def load(name: str, request: Request) -> TrainedModel:
    """Call a factory, named as in `path/module.py:factory`."""
    path, _, function = name.rpartition(":")
    factory = _import(Path(path), function)
    with seeded(request.seed), _importable(Path(path).parent):
        module = _call(factory, name)
    if request.file is not None:
        load_weights(module, request.file)
    said = _Said(module, factory)
    size = request.size or said.size or (SIDE, SIDE)
    channels = said.channels
    model = TrainedModel(function, module.eval(), torch.zeros(1, channels, *size))
    spec = None if said.preprocessing is None else as_spec(said.preprocessing, model)
    return dataclasses.replace(
        model, preprocessing=spec and of_size(spec, size), labels=said.labels
    )


class _Said:
    """What a network or its factory says by attributes."""

    def __init__(self, module: nn.Module, factory: Callable[..., Any]) -> None:
        def attribute(name: str) -> Any:
            return getattr(module, name, getattr(factory, name, None))

        self.preprocessing = attribute("preprocessing")
        self.labels = _labels(attribute("labels"))
        size = attribute("input_size")
        self.size: tuple[int, int] | None = (size, size) if isinstance(size, int) else None
        if isinstance(size, list | tuple):
            self.size = (size[-2], size[-1])
        spec = self.preprocessing
        if self.size is None and isinstance(spec, Preprocessing):
            self.size = spec.size
        elif self.size is None and isinstance(spec, dict) and "size" in spec:
            self.size = tuple(spec["size"])
        order = spec.get("channel_order", "RGB") if isinstance(spec, dict) else "RGB"
        self.channels = spec.channels if isinstance(spec, Preprocessing) else _CHANNELS[order]


_CHANNELS = {"RGB": 3, "BGR": 3, "GRAY": 1, "RGBA": 4, "BGRA": 4}


def _labels(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    return read_labels(value) if isinstance(value, str | Path) else tuple(map(str, value))


def _import(path: Path, function: str) -> Callable[..., Any]:
    """Run a file of Python and return one of its functions."""
    if not path.is_file():
        raise ExportError(f"there is no file {path}; give path/module.py:factory")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ExportError(f"{path} is not a file of Python; give path/module.py:factory")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and the like look their module up
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ExportError(f"{path} cannot be imported: {_first_line(error)}") from error
    finally:
        if before is not None:
            sys.modules[path.stem] = before
    factory = getattr(module, function, None)
    if not callable(factory):
        public = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == path.stem
        ]
        raise ExportError(
            f"{path} has no function {function!r}; it has: {', '.join(public) or 'none'}"
        )
    return factory  # type: ignore[no-any-return]


def _call(factory: Callable[..., Any], name: str) -> nn.Module:
    try:
        module = factory()
    except Exception as error:
        raise ExportError(
            f"{name} failed: {_first_line(error)}; it is called without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise ExportError(f"{name} returned a {type(module).__name__}; return an nn.Module")
    return module.cpu().float()


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import those beside it."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
