"""Preprocessing configurations of training frameworks: Hugging Face, timm and torchvision.

Each is recognised by its keys and translated to fields of `Preprocessing`; if the translation is
only approximate, a warning describes the difference. Files are read in `files.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.preprocessing.resampling import KERNELS
from ibisa_onnx.preprocessing.sources.base import Layer, parse_layer
from ibisa_onnx.preprocessing.spec import PRESETS, enlarged

Config = Mapping[str, Any]
_Fields = dict[str, Any]
_Said = tuple[_Fields, list[str]]
"""Fields of `Preprocessing`, and differences from the original."""

# Keys that are unique to a framework.
_HUGGING_FACE = frozenset(
    ("image_processor_type", "feature_extractor_type", "do_normalize", "do_resize", "image_mean")
)
_TIMM_TABLES = ("pretrained_cfg", "data_config")
_TIMM = frozenset((*_TIMM_TABLES, "input_size", "crop_pct", "crop_mode"))
_TORCHVISION = frozenset(("resize_size", "crop_size"))
# Pillow's numbers for its filters.
_RESAMPLE: Mapping[Any, str] = MappingProxyType(
    {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}
)
# timm's default.
_TIMM_CROP = 0.875
# The undocumented default of Hugging Face's LeViT processor.
_LEVIT_CROP = 224 / 256
_BYTES_TO_UNIT = 1 / 255
_OTHER_ASPECT = "it stretches to another aspect ratio than that of its crop; here both are equal"


def config_layer(values: Config, source: str) -> Layer | None:
    """Translate a framework's configuration; return None if it is not recognised.

    Raises
    ------
    PreprocessingError
        It is recognised but invalid.
    """
    translate = _dialect(values)
    if translate is None:
        return None
    try:
        fields, warnings = translate(values)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise PreprocessingError(f"{source}: invalid configuration ({error})") from error
    parsed = parse_layer(source, fields)
    return Layer(source, parsed.fields, None, tuple(f"{source}: {each}" for each in warnings))


def _dialect(values: Config) -> Callable[[Config], _Said] | None:
    """Recognise a configuration by its keys; Hugging Face's may contain timm's."""
    if any(isinstance(values.get(name), dict) for name in _TIMM_TABLES):
        return _timm
    for keys, translate in ((_HUGGING_FACE, _hugging_face), (_TIMM, _timm)):
        if keys & values.keys():
            return translate
    return _torchvision if _TORCHVISION & values.keys() else None


def _hugging_face(config: Config) -> _Said:
    """Translate a `preprocessor_config.json`."""
    fields, warnings = _hugging_face_geometry(config)
    return fields | _hugging_face_values(config), warnings


def _hugging_face_values(config: Config) -> _Fields:
    """Translate the pixel formula; steps that are not named are enabled, as in Hugging Face."""
    rescale = config.get("do_rescale", True)
    shift = 1.0 if rescale and config.get("rescale_offset") else 0.0  # EfficientNet: to -1..1
    fields: _Fields = {
        "channel_order": "BGR" if config.get("do_flip_channel_order") else "RGB",
        "scale": config.get("rescale_factor", _BYTES_TO_UNIT) if rescale else 1.0,
        "mean": shift,
        "std": 1.0,
    }
    if config.get("do_normalize", "image_mean" in config):
        mean = config["image_mean"]
        mean = [each + shift for each in mean] if isinstance(mean, list) else mean + shift
        std = config["image_std"]
        if config.get("include_top"):  # EfficientNet's divides twice
            std = [each**2 for each in std] if isinstance(std, list) else std**2
        fields |= {"mean": mean, "std": std}
    return fields


def _hugging_face_geometry(config: Config) -> _Said:
    """Translate resizing and cropping."""
    crops = config.get("do_center_crop", False) and "crop_size" in config
    crop = _sides(config["crop_size"]) if crops else None
    fields = _interpolation(config.get("resample"))
    if not config.get("do_resize", True) or "size" not in config:
        return fields | ({"size": crop} if crop else {}), []
    size = config["size"]
    if isinstance(size, int):  # older files: a square, or the shorter side where it is cropped
        size = {"shortest_edge": size} if crop else {"height": size, "width": size}
    if "shortest_edge" not in size:
        geometry, warnings = _stretched(_sides(size), crop)
        return fields | geometry, warnings
    shorter = size["shortest_edge"]
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    if crop is None and "crop_pct" in config:  # ConvNeXt: small ones are resized larger and cropped
        if shorter >= 384:
            return fields | _stretched([shorter, shorter], None)[0], []
        crop = [shorter, shorter]
    larger = _LEVIT_CROP if kind.startswith("Levit") else config.get("crop_pct", 1)
    return fields | _shortest(int(shorter / larger), crop), []


def _timm(config: Config) -> _Said:
    """Translate timm's data configuration, on its own or inside its `config.json`."""
    config = next((config[name] for name in _TIMM_TABLES if name in config), config)
    usual = PRESETS["imagenet"]
    channels, *sides = config["input_size"]
    fields = {
        "channel_order": {1: "GRAY", 3: "RGB"}[channels],
        "scale": _BYTES_TO_UNIT,
        "mean": config.get("mean", list(usual.mean)),
        "std": config.get("std", list(usual.std)),
        **_interpolation(config.get("interpolation", "bicubic")),
    }
    resized = [math.floor(side / config.get("crop_pct", _TIMM_CROP)) for side in sides]
    mode = config.get("crop_mode") or "center"
    if mode == "squash":
        geometry, warnings = _stretched(resized, sides)
    elif mode == "border":
        margins = "its margins have the mean colour; here they are grey"
        cut = ", and nothing is cropped, unlike there" if resized != sides else ""
        geometry, warnings = {"resize": "letterbox", "size": sides}, [margins + cut]
    else:
        geometry, warnings = _shortest(min(resized), sides), []
        if sides[0] != sides[1]:
            warnings = ["it covers the input and crops; here the shorter side is resized instead"]
    return fields | geometry, warnings


def _torchvision(config: Config) -> _Said:
    """Translate the attributes of a torchvision transforms preset."""
    usual = PRESETS["imagenet"]
    fields = {
        "channel_order": "RGB",
        "scale": _BYTES_TO_UNIT,
        "mean": config.get("mean", list(usual.mean)),
        "std": config.get("std", list(usual.std)),
        **_interpolation(config.get("interpolation", "bilinear")),
    }
    crop = _sides(config["crop_size"]) if config.get("crop_size") else None
    resized = config.get("resize_size")
    if not resized:
        return fields | ({"size": crop} if crop else {}), []
    sides = [resized] if isinstance(resized, int) else list(resized)
    if len(sides) == 1:
        return fields | _shortest(sides[0], crop), []
    geometry, warnings = _stretched(sides, crop)
    return fields | geometry, warnings


def _shortest(shorter: int, crop: Sequence[int] | None) -> _Fields:
    """Return the fields for resizing the shorter side and cropping the centre."""
    return {"resize": "shortest", "shorter_side": shorter, "size": list(crop or [shorter] * 2)}


def _stretched(sides: Sequence[int], crop: Sequence[int] | None) -> _Said:
    """Return the fields for stretching, with a crop if that has another size."""
    if crop is None or list(crop) == list(sides):
        return {"resize": "stretch", "size": list(sides)}, []
    height, width = crop
    fields = {"resize": "stretch-crop", "shorter_side": min(sides), "size": list(crop)}
    same = list(enlarged((height, width), min(sides))) == list(sides)
    return fields, [] if same else [_OTHER_ASPECT]


def _interpolation(value: Any) -> _Fields:
    """Read a filter as Pillow's number or name, or as in `InterpolationMode.BILINEAR`."""
    name = _RESAMPLE.get(value) if isinstance(value, int) else str(value).split(".")[-1].lower()
    return {"interpolation": name} if name in KERNELS else {}


def _sides(size: Any) -> list[int]:
    """Read height and width from a number, a list of one or two, or a table."""
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, list):
        return [size[0], size[-1]]
    if "shortest_edge" in size:
        return [size["shortest_edge"]] * 2
    return [size["height"], size["width"]]
