"""Preprocessing and labels written into a model's metadata, for this package and for others.

The key `ibisa` holds them whole. Beside it go ONNX's standard `Image.*` keys, `names` as
Ultralytics writes it, and the keys of OpenVINO's Model API, each only where it can say the truth;
`ibisa` lists which of these were written, so that they can be taken out again, and which fields
were guessed: these are read back as guesses, and others are not told of them. Reading is in
`metadata.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ibisa_onnx.errors import PreprocessingError
from ibisa_onnx.models.signature import METADATA_KEY
from ibisa_onnx.preprocessing.sources.metadata import (
    MODEL_API_RESIZES,
    PIXEL_FORMATS,
    PIXEL_RANGES,
    model_api_key,
    read_ibisa,
)
from ibisa_onnx.preprocessing.spec import CROPPING, LETTERBOXES, Preprocessing

if TYPE_CHECKING:
    import onnx

# What others may have said of these is replaced, or removed where it cannot be said their way.
_ON_PREPROCESSING = (
    "Image.BitmapPixelFormat",
    "Image.ColorSpaceGamma",
    "Image.NominalPixelRange",
    *map(
        model_api_key,
        (
            "mean_values",
            "scale_values",
            "reverse_input_channels",
            "resize_type",
            "pad_value",
            "intensity_mode",
        ),
    ),
)
_ON_VALUES = frozenset(("channel_order", "scale", "mean", "std"))
_ON_LABELS = ("names", model_api_key("labels"))


def annotate(
    proto: onnx.ModelProto, preprocessing: Preprocessing | None, labels: Sequence[str] | None
) -> None:
    """Say in a model's metadata how pictures become its input, and what its classes are called.

    Changes `proto` in place, and nothing in it but `metadata_props`. What an earlier call wrote and
    this one does not is removed, so `annotate(proto, None, None)` takes out all that was written.

    Parameters
    ----------
    proto
        The model; its weights may lie elsewhere.
    preprocessing
        None: nothing is said of it.
    labels
        Names of the classes by index; None: nothing is said of them.
    """
    said: dict[str, str] = {}
    before = {each.key: each.value for each in proto.metadata_props}
    ours = written_keys(before)
    stale = {METADATA_KEY, *ours}
    content: dict[str, Any] = {"version": 1}
    if preprocessing is not None:
        stale.update(_ON_PREPROCESSING)
        said |= _image_keys(preprocessing) | _model_api_keys(preprocessing)
        content["preprocessing"] = _own_fields(preprocessing)
    if labels is not None:
        stale.update(_ON_LABELS)
        said |= _label_keys(labels)
        content["labels"] = list(labels)
        kind = model_api_key("model_type")
        if _is_classifier(proto, len(labels)) and (kind in ours or kind not in before):
            said[kind] = "Classification"
    if said:
        content["written"] = sorted(said)
        said[METADATA_KEY] = json.dumps(content, ensure_ascii=False)
    _replace(proto, stale, said)


def written_keys(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys beside `ibisa` that an earlier `annotate` wrote."""
    try:
        written = read_ibisa(metadata).get("written", [])
    except PreprocessingError:
        return ()
    if not isinstance(written, list):
        return ()
    return tuple(key for key in written if isinstance(key, str))


def _replace(proto: onnx.ModelProto, stale: set[str], said: Mapping[str, str]) -> None:
    """Take keys out, whatever their case, and put others in; what is left keeps its order."""
    gone = {key.lower() for key in (*stale, *said)}
    kept = [(each.key, each.value) for each in proto.metadata_props if each.key.lower() not in gone]
    del proto.metadata_props[:]
    for key, value in (*kept, *said.items()):
        proto.metadata_props.add(key=key, value=value)


def _own_fields(spec: Preprocessing) -> dict[str, Any]:
    """Say it in the project's own words: all of it, but for values that are guessed."""
    fields = spec.to_dict()
    if spec.resize in CROPPING:
        fields["shorter_side"] = spec.shorter_side or min(spec.size)
    else:
        del fields["shorter_side"]
    if _values_are_guessed(spec):
        for name in _ON_VALUES & set(spec.guessed):
            del fields[name]
        fields["guessed"] = [name for name in spec.guessed if name not in _ON_VALUES]
    return fields


def _values_are_guessed(spec: Preprocessing) -> bool:
    """Whether nobody said how pixels become the input; a guess of that is written nowhere."""
    return spec.is_guess("mean")


def _image_keys(spec: Preprocessing) -> dict[str, str]:
    """Say it in ONNX's standard keys; a picture's pixels are sRGB, and nothing here undoes that."""
    formats = [name for name, order in PIXEL_FORMATS.items() if order == spec.channel_order]
    if not formats or _values_are_guessed(spec):
        return {}
    keys = {"Image.BitmapPixelFormat": formats[0], "Image.ColorSpaceGamma": "SRGB"}
    offset, factor = _affine(spec)
    for name, (low, high) in PIXEL_RANGES.items():
        if np.allclose([offset, offset + 255 * factor], [[low], [high]], rtol=0, atol=1e-6 * high):
            keys["Image.NominalPixelRange"] = name
    return keys


def _model_api_keys(spec: Preprocessing) -> dict[str, str]:
    """Say it in the keys of OpenVINO's Model API, which takes pictures in BGR."""
    keys = {} if _values_are_guessed(spec) else _model_api_values(spec)
    if not spec.is_guess("resize", "shorter_side"):
        keys |= _model_api_resize(spec)
    return {model_api_key(name): value for name, value in keys.items()}


def _model_api_values(spec: Preprocessing) -> dict[str, str]:
    """Say what becomes of pixels, and in which order."""
    offset, factor = _affine(spec)
    keys = {"mean_values": _numbers(-offset / factor), "scale_values": _numbers(1 / factor)}
    if spec.channel_order in ("RGB", "BGR"):
        keys["reverse_input_channels"] = str(spec.channel_order == "RGB")
    return keys


def _model_api_resize(spec: Preprocessing) -> dict[str, str]:
    """Say how a picture is brought to the input's size, where the Model API knows that way."""
    square = spec.size[0] == spec.size[1] and spec.shorter_side in (None, spec.size[0])
    keys = {}
    for name, resize in MODEL_API_RESIZES.items():
        if resize == spec.resize and (square or resize != "shortest"):
            keys["resize_type"] = name
    if spec.resize in LETTERBOXES:
        keys["pad_value"] = str(spec.pad_value)
    return keys


def _label_keys(labels: Sequence[str]) -> dict[str, str]:
    """Say the names of the classes; the Model API separates them by spaces."""
    words = ["_".join(label.split()) or f"class_{i}" for i, label in enumerate(labels)]
    return {"names": str(dict(enumerate(labels))), model_api_key("labels"): " ".join(words)}


def _affine(spec: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and factor of each channel: model space is `offset + factor * pixel`."""
    mean, std = (np.broadcast_to(each, spec.channels) for each in (spec.mean, spec.std))
    return -mean / std, spec.scale / std


def _numbers(values: np.ndarray) -> str:
    """Write numbers so that they lose nothing that float32 holds."""
    return " ".join(f"{value + 0.0:.9g}" for value in values)


def _is_classifier(proto: onnx.ModelProto, classes: int) -> bool:
    """Tell whether the only output is one score for each class, [N, K] or [N, K, 1, 1]."""
    if len(proto.graph.output) != 1:
        return False
    sides = [side.dim_value for side in proto.graph.output[0].type.tensor_type.shape.dim]
    return len(sides) in (2, 4) and sides[1:] == [classes, 1, 1][: len(sides) - 1]
