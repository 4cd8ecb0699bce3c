"""What a model file says of itself in its metadata: the project's own key, and three others' ways.

`ibisa` holds JSON: `{"version": 1, "preprocessing": {...}, "labels": [...]}`, the fields those of
`Preprocessing`. ONNX's standard `Image.*` keys and Ultralytics' are understood as well.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.model.layers import Layer, parse_layer

IBISA_KEY = "ibisa"
_PIXEL_FORMATS: Mapping[str, str] = MappingProxyType(
    {"gray8": "GRAY", "rgb8": "RGB", "bgr8": "BGR", "rgba8": "RGBA", "bgra8": "BGRA"}
)
_PIXEL_RANGES: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "nominalrange_0_255": {"scale": 1.0, "mean": (0.0,), "std": (1.0,)},
        "normalized_0_1": {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)},
        "normalized_1_1": {"scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    }
)


def metadata_layers(metadata: Mapping[str, str]) -> list[Layer]:
    """Return what the metadata say on preprocessing, the most trusted first.

    What cannot be understood becomes a warning of its layer, never an error: the owner of an image
    can seldom mend the file.
    """
    layers = [_ibisa_layer(metadata), _onnx_layer(metadata), _ultralytics_layer(metadata)]
    return [layer for layer in layers if layer is not None]


def read_ibisa(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of the `ibisa` key, empty where there is none.

    Raises
    ------
    PreprocessingError
        It is not JSON of version 1.
    """
    if IBISA_KEY not in metadata:
        return {}
    try:
        content = json.loads(metadata[IBISA_KEY])
    except ValueError as error:
        raise PreprocessingError(f"metadata key {IBISA_KEY} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("version") != 1:
        raise PreprocessingError(f"metadata key {IBISA_KEY} is not of version 1")
    return content


def parse_literal(text: str) -> Any:
    """Read a JSON or Python literal, None where it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return None


def _ibisa_layer(metadata: Mapping[str, str]) -> Layer | None:
    source = f"metadata key {IBISA_KEY}"
    try:
        content = read_ibisa(metadata)
        values = content.get("preprocessing", {})
        if not isinstance(values, dict):
            raise PreprocessingError(f"{source}: preprocessing is no table")
        return parse_layer(source, values) if values else None
    except PreprocessingError as error:
        return Layer(source, {}, None, (f"ignored: {error}",))


def _onnx_layer(metadata: Mapping[str, str]) -> Layer | None:
    """Read ONNX's standard keys for image models."""
    keys = [
        key for key in ("Image.BitmapPixelFormat", "Image.NominalPixelRange") if key in metadata
    ]
    if not keys:
        return None
    fields: dict[str, Any] = {}
    warnings = []
    for key in keys:
        value = metadata[key].strip().lower()
        if value in _PIXEL_FORMATS:
            fields["channel_order"] = _PIXEL_FORMATS[value]
        elif value in _PIXEL_RANGES:
            fields |= _PIXEL_RANGES[value]
        else:
            warnings.append(f"ignored: metadata key {key} is {metadata[key]!r}, which is not known")
    return Layer(f"metadata keys {', '.join(keys)}", fields, None, tuple(warnings))


def _ultralytics_layer(metadata: Mapping[str, str]) -> Layer | None:
    """Read what Ultralytics writes: its models take RGB in 0..1."""
    if metadata.get("author") != "Ultralytics":
        return None
    size = parse_literal(metadata.get("imgsz", ""))
    task = metadata.get("task", "detect")
    fields: dict[str, Any] = {"resize": "shortest" if task == "classify" else "letterbox"}
    if isinstance(size, list) and len(size) == 2 and all(isinstance(each, int) for each in size):
        fields |= {"size": tuple(size), "shorter_side": min(size)}
    return Layer("metadata of Ultralytics", fields, "unit")
