"""Preprocessing from a file: TOML or JSON in the project's notation, or Hugging Face's JSON."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.model.layers import Layer, parse_layer

# Keys that only a Hugging Face image processor writes.
_HUGGING_FACE = frozenset(
    ("image_processor_type", "feature_extractor_type", "do_normalize", "do_resize", "image_mean")
)
# Pillow's numbers for its filters.
_RESAMPLE: Mapping[Any, str] = MappingProxyType(
    {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
)


def read_spec_file(path: Path) -> Layer:
    """Read a preprocessing file.

    TOML and JSON hold the fields of `Preprocessing` (and `preset`) at the top, or in a table
    `preprocessing`. A Hugging Face `preprocessor_config.json` is told by its keys.

    Raises
    ------
    PreprocessingError
        The file cannot be read, is neither TOML nor JSON, or says something impossible.
    """
    values = _read_table(path)
    source = f"file {path.name}"
    if _HUGGING_FACE & values.keys():
        return hugging_face_layer(values, source)
    inner = values.get("preprocessing")
    return parse_layer(source, inner if isinstance(inner, dict) else values)


def _read_table(path: Path) -> dict[str, Any]:
    """Read a TOML or JSON file that holds a table."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise PreprocessingError(
            f"cannot read preprocessing file {path}: {error.strerror}"
        ) from error
    except ValueError as error:
        raise PreprocessingError(f"{path} is not valid TOML or JSON: {error}") from error
    if not isinstance(values, dict):
        raise PreprocessingError(f"{path} holds no table of preprocessing fields")
    return values


def hugging_face_layer(config: Mapping[str, Any], source: str) -> Layer:
    """Translate a Hugging Face `preprocessor_config.json`."""
    try:
        fields, warnings = _hugging_face_geometry(config)
        fields |= _hugging_face_values(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise PreprocessingError(f"{source}: cannot make sense of {error}") from error
    parsed = parse_layer(source, fields)
    return Layer(source, parsed.fields, None, tuple(f"{source}: {each}" for each in warnings))


def _hugging_face_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate what happens to the pixels' values; steps that are not named are done, as there."""
    rescale = config.get("do_rescale", True)
    fields: dict[str, Any] = {
        "channel_order": "BGR" if config.get("do_flip_channel_order") else "RGB",
        "scale": config.get("rescale_factor", 1 / 255) if rescale else 1.0,
        "mean": 0.0,
        "std": 1.0,
    }
    if config.get("do_normalize", "image_mean" in config):
        fields |= {"mean": config["image_mean"], "std": config["image_std"]}
    return fields


def _hugging_face_geometry(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translate resizing and cropping, and say where ours differs."""
    crops = config.get("do_center_crop", False) and "crop_size" in config
    crop = _sides(config["crop_size"]) if crops else None
    fields: dict[str, Any] = {}
    if config.get("resample") in _RESAMPLE:
        fields["interpolation"] = _RESAMPLE[config["resample"]]
    if not config.get("do_resize", True) or "size" not in config:
        return fields | ({"size": crop} if crop else {}), []
    size, warnings = config["size"], []
    if isinstance(size, int):  # older files: a square, or the shorter side where it is cropped
        size = {"shortest_edge": size} if crop else {"height": size, "width": size}
    if "shortest_edge" in size:
        shorter = size["shortest_edge"]
        if crop is None and "crop_pct" in config:  # ConvNeXt: resized larger, then cropped
            crop, shorter = [shorter, shorter], int(shorter / config["crop_pct"])
        fields |= {"resize": "shortest", "shorter_side": shorter, "size": crop or [shorter] * 2}
    elif crop is not None:
        warnings.append("it stretches and then crops; the shorter side is resized here instead")
        shorter = min(_sides(size))
        fields |= {"resize": "shortest", "shorter_side": shorter, "size": crop}
    else:
        fields |= {"resize": "stretch", "size": _sides(size)}
    return fields, warnings


def _sides(size: Any) -> list[int]:
    """Read height and width, as a number for both or as a table."""
    if isinstance(size, int):
        return [size, size]
    if "shortest_edge" in size:
        return [size["shortest_edge"]] * 2
    return [size["height"], size["width"]]
