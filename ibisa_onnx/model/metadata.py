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
"""What pixels 0 and 255 become, by the range's name in ONNX's standard metadata."""
MODEL_API_RESIZES: Mapping[str, str] = MappingProxyType(
    {"standard": "stretch", "fit_to_window_letterbox": "letterbox", "crop": "shortest"}
)
"""Ways to resize by their names in OpenVINO's Model API."""
_RANGE_FIELDS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        name: {"scale": (high - low) / 255, "mean": (-low,), "std": (1.0,)}
        for name, (low, high) in PIXEL_RANGES.items()
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


def model_api_key(name: str) -> str:
    """Return where an ONNX file keeps a value of OpenVINO's Model API."""
    return f"model_info {name}"


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
            warnings.append(f"ignored: metadata key {key} is {value!r}, which is not known")
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
