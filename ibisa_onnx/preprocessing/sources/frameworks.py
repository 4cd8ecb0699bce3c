"""Preprocessing as the training frameworks write it down: Hugging Face's, timm's and torchvision's.

Each is told by its keys and translated into the fields of `Preprocessing`; where ours can only come
near, a warning says how it differs. Reading the files is in `files.py`.
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
"""Fields of `Preprocessing`, and in what ours differs."""

# Keys that nobody else writes.
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
# What timm takes where its configuration is silent.
_TIMM_CROP = 0.875
# What Hugging Face's processor of LeViT takes, and does not say.
_LEVIT_CROP = 224 / 256
_BYTES_TO_UNIT = 1 / 255
_OTHER_ASPECT = "what it stretches to has not the aspect of what it crops, here it has"


def config_layer(values: Config, source: str) -> Layer | None:
    """Translate a framework's configuration, None where it is of none of them.

    Raises
    ------
    PreprocessingError
        It is of one of them and makes no sense.
    """
    translate = _dialect(values)
    if translate is None:
        return None
    try:
        fields, warnings = translate(values)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise PreprocessingError(f"{source}: cannot make sense of {error}") from error
    parsed = parse_layer(source, fields)
    return Layer(source, parsed.fields, None, tuple(f"{source}: {each}" for each in warnings))


def _dialect(values: Config) -> Callable[[Config], _Said] | None:
    """Tell by the keys whose configuration it is; Hugging Face wraps timm's in its own."""
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
    """Translate what happens to the pixels' values; steps that are not named are done, as there."""
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
    """Translate timm's data configuration, by itself or in its `config.json`."""
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
        margins = "its margins have the mean colour, here they are grey"
        cut = ", and it crops, here nothing is cut" if resized != sides else ""
        geometry, warnings = {"resize": "letterbox", "size": sides}, [margins + cut]
    else:
        geometry, warnings = _shortest(min(resized), sides), []
        if sides[0] != sides[1]:
            warnings = ["it covers the input and crops; the shorter side is resized here instead"]
    return fields | geometry, warnings


def _torchvision(config: Config) -> _Said:
    """Translate what a preset of torchvision's transforms shows of itself."""
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
    """Say that the shorter side is resized, and the centre cropped."""
    return {"resize": "shortest", "shorter_side": shorter, "size": list(crop or [shorter] * 2)}


def _stretched(sides: Sequence[int], crop: Sequence[int] | None) -> _Said:
    """Say that the picture is stretched, and cropped where the crop is another size."""
    if crop is None or list(crop) == list(sides):
        return {"resize": "stretch", "size": list(sides)}, []
    height, width = crop
    fields = {"resize": "stretch-crop", "shorter_side": min(sides), "size": list(crop)}
    same = list(enlarged((height, width), min(sides))) == list(sides)
    return fields, [] if same else [_OTHER_ASPECT]


def _interpolation(value: Any) -> _Fields:
    """Read Pillow's number of a filter, or its name, as in `InterpolationMode.BILINEAR`."""
    name = _RESAMPLE.get(value) if isinstance(value, int) else str(value).split(".")[-1].lower()
    return {"interpolation": name} if name in KERNELS else {}


def _sides(size: Any) -> list[int]:
    """Read height and width, as a number for both, a list (of one number, too) or a table."""
    if isinstance(size, int):
        return [size, size]
    if isinstance(size, list):
        return [size[0], size[-1]]
    if "shortest_edge" in size:
        return [size["shortest_edge"]] * 2
    return [size["height"], size["width"]]
