"""Preprocessing from files: one that the user names, and those beside the model.

In the project's notation, TOML or JSON, or in that of a training framework (`frameworks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.io.files import is_regular, name_of, read_text
from ibisa_onnx.io.literals import parse_json, parse_toml
from ibisa_onnx.limits import Limits
from ibisa_onnx.preprocessing.sources.base import Layer, parse_layer
from ibisa_onnx.preprocessing.sources.frameworks import config_layer

_COMPANIONS = ("preprocessor_config.json", "config.json")
_TRANSFORMERS = frozenset(("architectures", "model_type", "transformers_version"))
"""Keys of a transformers model configuration, which has no preprocessing."""
# Hugging Face stores several exports of one model in a folder of this name.
_EXPORTS = "onnx"


def read_spec_file(path: Path, limits: Limits | None = None) -> Layer:
    """Read a preprocessing file.

    TOML and JSON contain the fields of `Preprocessing` (and `preset`) at the top level, or in a
    table `preprocessing`. A framework's configuration is recognised by its keys.

    Raises
    ------
    PreprocessingError
        The file cannot be read, is neither TOML nor JSON, or has an invalid value.
    """
    values = _read_table(path, limits)
    source = f"file {path.name}"
    layer = config_layer(values, source)
    if layer is not None:
        return layer
    if _TRANSFORMERS & values.keys():
        raise PreprocessingError(
            f"{path} is a transformers model configuration, which has no preprocessing; "
            "pass the preprocessor_config.json beside it"
        )
    inner = values.get("preprocessing")
    return parse_layer(source, inner if isinstance(inner, dict) else values)


def companions(folder: Path | None) -> Iterator[tuple[Path, str]]:
    """Yield the files beside a model that may describe it, each with a description.

    `folder` is the model's; None: there is none.
    """
    if folder is None:
        return
    places = [(folder, "beside the model")]
    if folder.name == _EXPORTS:
        places.append((folder.parent, f"above the folder {_EXPORTS}"))
    for place, where in places:
        for name in _COMPANIONS:
            if is_regular(place / name):
                yield place / name, f"{name} {where}"


def companion_layers(folder: Path | None, limits: Limits | None = None) -> list[Layer]:
    """Return the preprocessing settings in files beside a model, highest precedence first.

    Files that cannot be parsed cause a warning, not an error, since the user did not name them.
    """
    layers: list[Layer] = []
    for path, source in companions(folder):
        try:
            layer = config_layer(_read_table(path, limits), source)
        except PreprocessingError as error:
            layer = Layer(source, {}, None, (f"ignored: {error}",))
        layers += [layer] if layer is not None else []
    return layers


def _read_table(path: Path, limits: Limits | None) -> dict[str, Any]:
    """Read a TOML or JSON file whose top level is a table."""
    text = read_text(path, "preprocessing", PreprocessingError, limits)
    try:
        values = parse_toml(text) if path.suffix.lower() == ".toml" else parse_json(text)
    except ValueError as error:
        raise PreprocessingError(f"{name_of(path)} is not valid TOML or JSON: {error}") from error
    if not isinstance(values, dict):
        raise PreprocessingError(f"{path} does not contain a table of preprocessing fields")
    return values
