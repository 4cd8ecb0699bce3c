"""Preprocessing in a model's metadata: the project's own key, and three other conventions.

`ibisa` contains JSON: `{"version": 1, "preprocessing": {...}, "labels": [...], "written": [...]}`,
with the fields of `Preprocessing`; `written` lists the keys of other conventions with the same
settings. Ultralytics' keys, those of OpenVINO's Model API and ONNX's standard `Image.*` are
supported too. Writing is in `annotate.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.io.literals import (
    is_integer,
    parse_integer,
    parse_json,
    parse_literal,
    parse_number,
)
from ibisa_onnx.models.signature import METADATA_KEY
from ibisa_onnx.preprocessing.sources.base import Layer, parse_layer
from ibisa_onnx.preprocessing.spec import LETTERBOXES, MOST_SIDE

PIXEL_FORMATS: Mapping[str, str] = MappingProxyType(
    {"Gray8": "GRAY", "Rgb8": "RGB", "Bgr8": "BGR", "Rgba8": "RGBA", "Bgra8": "BGRA"}
)
"""Channel orders by their names in ONNX's standard metadata."""
PIXEL_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "NominalRange_0_255": (0.0, 255.0),
        "Normalized_0_1": (0.0, 1.0),
        "Normalized_1_1": (-1.0, 1.0),
    }
)
"""The values of pixels 0 and 255, by the range's name in ONNX's standard metadata."""
MODEL_API_RESIZES: Mapping[str, str] = MappingProxyType(
    {
        "standard": "stretch",
        "fit_to_window_letterbox": "letterbox",
        "fit_to_window": "letterbox-corner",
        "crop": "shortest",
    }
)
"""Resize modes by their names in OpenVINO's Model API."""
# Its keys for preprocessing.
_MODEL_API = (
    "embedded_processing",
    "intensity_mode",
    "mean_values",
    "resize_type",
    "reverse_input_channels",
    "scale_values",
)
_RANGE_FIELDS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        name: {"scale": (high - low) / 255, "mean": (0.0 - low,), "std": (1.0,)}
        for name, (low, high) in PIXEL_RANGES.items()
    }
)


def metadata_layers(
    metadata: Mapping[str, str], size: tuple[int, int] | None = None
) -> list[Layer]:
    """Return the preprocessing settings in the metadata, highest precedence first.

    `size` is the input's height and width if fixed. Invalid values cause a warning, never an error,
    since the user can seldom fix the file.
    """
    layers = [
        _ibisa_layer(metadata),
        _ultralytics_layer(metadata),
        _model_api_layer(metadata, size),
        _onnx_layer(metadata),
    ]
    return [layer for layer in layers if layer is not None]


def read_ibisa(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of the `ibisa` key, empty if there is none.

    Raises
    ------
    PreprocessingError
        It is not JSON of version 1.
    """
    if METADATA_KEY not in metadata:
        return {}
    try:
        content = parse_json(metadata[METADATA_KEY])
    except ValueError as error:
        raise PreprocessingError(f"metadata key {METADATA_KEY} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("version") != 1:
        raise PreprocessingError(f"metadata key {METADATA_KEY} has an unsupported version")
    return content


def model_api_key(name: str) -> str:
    """Return the ONNX metadata key of a value of OpenVINO's Model API."""
    return f"model_info {name}"


def model_api_values(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the values of OpenVINO's Model API in a file's metadata, by name."""
    found = {}
    for key, value in metadata.items():
        match key.split():
            case ["model_info", name]:
                found[name] = value.strip()
    return found


def _ibisa_layer(metadata: Mapping[str, str]) -> Layer | None:
    source = f"metadata key {METADATA_KEY}"
    try:
        content = read_ibisa(metadata)
        values = content.get("preprocessing", {})
        if not isinstance(values, dict):
            raise PreprocessingError(f"{source}: preprocessing is not an object")
        return parse_layer(source, values) if values else None
    except PreprocessingError as error:
        return Layer(source, {}, None, (f"ignored: {error}",))


def _onnx_layer(metadata: Mapping[str, str]) -> Layer | None:
    """Read ONNX's standard keys for image models."""
    known: dict[str, dict[str, dict[str, Any]]] = {
        "Image.BitmapPixelFormat": {n: {"channel_order": v} for n, v in PIXEL_FORMATS.items()},
        "Image.NominalPixelRange": dict(_RANGE_FIELDS),
    }
    said = {key.lower(): value for key, value in metadata.items()}  # their case does not matter
    keys = [key for key in known if key.lower() in said]
    if not keys:
        return None
    fields: dict[str, Any] = {}
    warnings = []
    for key in keys:
        value = said[key.lower()]
        meanings = {name.lower(): meaning for name, meaning in known[key].items()}
        fields |= meanings.get(value.strip().lower(), {})
        if value.strip().lower() not in meanings:
            warnings.append(f"ignored: metadata key {key} is {value!r:.80}, an unknown value")
    return Layer(f"metadata keys {', '.join(keys)}", fields, None, tuple(warnings))


def _ultralytics_layer(metadata: Mapping[str, str]) -> Layer | None:
    """Read Ultralytics' metadata: its models use RGB, or grey, in 0..1."""
    if metadata.get("author") != "Ultralytics":
        return None
    task = metadata.get("task", "detect")
    fields: dict[str, Any] = {"resize": "shortest" if task == "classify" else "letterbox"}
    warnings = []
    for key, read in _ULTRALYTICS.items():
        said = read(parse_literal(metadata[key])) if key in metadata else {}
        fields |= said or {}
        if said is None:
            value = f"{metadata[key]!r:.80}"
            warnings.append(f"ignored: metadata key {key} is {value}, an unknown value")
    return Layer("Ultralytics metadata", fields, "unit", tuple(warnings))


def _ultralytics_size(value: Any) -> dict[str, Any] | None:
    """Read the size of the input: one number for both sides, or height and width."""
    sides = [value, value] if is_integer(value) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        return None
    if not all(is_integer(each) and 0 < each <= MOST_SIDE for each in sides):
        return None
    return {"size": tuple(sides), "shorter_side": min(sides)}


def _ultralytics_channels(value: Any) -> dict[str, Any] | None:
    """Read the number of channels; images can have only 1 or 3 of them."""
    order = {1: "GRAY", 3: "RGB"}.get(value) if is_integer(value) else None
    return None if order is None else {"channel_order": order}


_ULTRALYTICS: Mapping[str, Callable[[Any], dict[str, Any] | None]] = MappingProxyType(
    {"imgsz": _ultralytics_size, "channels": _ultralytics_channels}
)


def _model_api_layer(metadata: Mapping[str, str], size: tuple[int, int] | None) -> Layer | None:
    """Read the keys of OpenVINO's Model API: bytes minus a mean, divided by a scale."""
    said = model_api_values(metadata)
    if not said.keys() & set(_MODEL_API):
        return None
    source = f"metadata keys {model_api_key('...')}"
    warnings: list[str] = []
    try:
        fields = _model_api_numbers(said)
    except ValueError as error:
        fields = {}
        warnings.append(f"ignored: metadata key {error}")
    if said.get("reverse_input_channels", "").lower() in ("true", "yes"):
        fields["channel_order"] = "RGB"  # its images are BGR; if not reversed, the order is unknown
    resize, note = _model_api_resize(said, size)
    return Layer(source, fields | resize, None, (*warnings, *note))


def _model_api_numbers(said: Mapping[str, str]) -> dict[str, Any]:
    """Return scale, mean and std, or nothing if unspecified; raise ValueError if invalid."""
    if said.get("embedded_processing", "").lower() in ("true", "yes"):
        return {"scale": 1.0, "mean": (0.0,), "std": (1.0,)}  # the graph includes it
    mode = said.get("intensity_mode", "none").lower()
    if mode not in ("none", "scale_to_unit"):
        raise ValueError(f"{model_api_key('intensity_mode')} is {mode!r:.80}, an unknown value")
    largest = _floats(said, "intensity_max_value") or (255.0,)
    mean, std = _floats(said, "mean_values"), _floats(said, "scale_values")
    if not mean and not std and mode == "none":
        return {}
    scale = 1.0 if mode == "none" else 1 / largest[0]
    return {"scale": scale, "mean": mean or (0.0,), "std": std or (1.0,)}


def _floats(said: Mapping[str, str], name: str) -> tuple[float, ...]:
    """Read numbers separated by spaces or commas; raise ValueError that names the key."""
    text = said.get(name, "")
    words = re.split(r"[\s,]+", text.strip("[]() "))
    if words in ([""], ["None"]):
        return ()
    numbers = tuple(each for each in map(parse_number, words) if each is not None)
    if len(numbers) < len(words):
        raise ValueError(f"{model_api_key(name)} is {text!r:.80}, expected numbers")
    if name != "mean_values" and 0 in numbers:
        raise ValueError(f"{model_api_key(name)} is {text!r:.80}; it is a divisor and cannot be 0")
    return numbers


def _model_api_resize(
    said: Mapping[str, str], size: tuple[int, int] | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings for resizing and padding, and a warning for unknown values."""
    name = said.get("resize_type")
    if name is None:
        return {}, []
    key = model_api_key("resize_type")
    if name not in MODEL_API_RESIZES:
        return {}, [f"ignored: metadata key {key} is {name!r:.80}, an unknown value"]
    resize = MODEL_API_RESIZES[name]
    fields: dict[str, Any] = {"resize": resize}
    if resize == "shortest" and size is not None:
        fields["shorter_side"] = min(size)
    if resize in LETTERBOXES:
        fields["pad_value"] = _pad_value(said)
    return fields, []


def _pad_value(said: Mapping[str, str]) -> int:
    """Return the value of the margins; 0 if unspecified or not a byte."""
    value = parse_integer(said.get("pad_value", ""))
    return 0 if value is None or value < 0 else min(value, 255)
