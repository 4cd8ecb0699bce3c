"""Writes preprocessing and labels into a model's metadata, for this package and for others.

The key `ibisa` has all of them. Beside it, ONNX's standard `Image.*` keys, Ultralytics' `names` and
the keys of OpenVINO's Model API are written, each only if it can express the setting exactly.
`ibisa` lists the other keys, so that they can be removed again, and the assumed fields, which are
read back as assumed and omitted from the other keys. Reading is in `metadata.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np

from ibisa_onnx.checks import check_type, shown
from ibisa_onnx.errors import PreprocessingError, TargetError
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

# Existing values of these keys are replaced, or removed if they cannot express the setting.
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
_ROWS = (6, 7)  # columns of a detector's rows, which may be mistaken for classes
_ON_LABELS = ("names", model_api_key("labels"))


def annotate(
    proto: onnx.ModelProto, preprocessing: Preprocessing | None, labels: Sequence[str] | None
) -> None:
    """Write a model's preprocessing and class labels into its metadata.

    Modifies `proto` in place, and only `metadata_props`. Keys that an earlier call wrote and this
    one does not are removed, so `annotate(proto, None, None)` removes everything that was written.

    Parameters
    ----------
    proto
        The model; its weights may be external.
    preprocessing
        The preprocessing to write; None: none.
    labels
        Class names by index; None: none.

    Raises
    ------
    OptionError
        `proto` is not a ModelProto, or `preprocessing` not a Preprocessing.
    TargetError
        The labels are not text, or not one for each class, if the only output is declared as one
        score per class.
    """
    _check(proto, preprocessing, labels)
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
        if _classes(proto) == len(labels) and (kind in ours or kind not in before):
            said[kind] = "Classification"
    if said:
        content["written"] = sorted(said)
        said[METADATA_KEY] = json.dumps(content, ensure_ascii=False)
    _replace(proto, stale, said)


def _check(proto: Any, preprocessing: Any, labels: Any) -> None:
    """Raise an error for arguments of wrong types, and for labels that do not fit the classes."""
    import onnx

    check_type("proto", proto, onnx.ModelProto, "an onnx.ModelProto")
    check_type("preprocessing", preprocessing, (Preprocessing, NoneType), "a Preprocessing")
    if labels is None:
        return
    check_type("labels", labels, (list, tuple), "a list of names", TargetError)
    for label in labels:
        if not isinstance(label, str) or label.encode(errors="replace").decode() != label:
            raise TargetError(f"label {shown(label)} cannot be encoded as UTF-8; correct it")
    classes = _classes(proto)
    if classes in _ROWS:
        return
    if classes and len(labels) not in ((1, 2) if classes == 1 else (classes,)):
        raise TargetError(
            f"there are {len(labels)} labels for the model's {2 if classes == 1 else classes} "
            "classes; pass one label per class"
        )


def written_keys(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys other than `ibisa` that an earlier `annotate` wrote."""
    try:
        written = read_ibisa(metadata).get("written", [])
    except PreprocessingError:
        return ()
    if not isinstance(written, list):
        return ()
    return tuple(key for key in written if isinstance(key, str))


def _replace(proto: onnx.ModelProto, stale: set[str], said: Mapping[str, str]) -> None:
    """Remove keys, in any case, and add others; the rest keep their order."""
    gone = {key.lower() for key in (*stale, *said)}
    kept = [(each.key, each.value) for each in proto.metadata_props if each.key.lower() not in gone]
    del proto.metadata_props[:]
    for key, value in (*kept, *said.items()):
        proto.metadata_props.add(key=key, value=value)


def _own_fields(spec: Preprocessing) -> dict[str, Any]:
    """Return the spec in the project's own notation, without assumed pixel values."""
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
    """Whether the formula for pixels is assumed; assumed values are never written."""
    return spec.is_guess("mean")


def _image_keys(spec: Preprocessing) -> dict[str, str]:
    """Return ONNX's standard keys; pixels are sRGB, which nothing here linearises."""
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
    """Return the keys of OpenVINO's Model API, which passes images in BGR."""
    keys = {} if _values_are_guessed(spec) else _model_api_values(spec)
    if not spec.is_guess("resize", "shorter_side"):
        keys |= _model_api_resize(spec)
    return {model_api_key(name): value for name, value in keys.items()}


def _model_api_values(spec: Preprocessing) -> dict[str, str]:
    """Return the keys for pixel values and channel order."""
    offset, factor = _affine(spec)
    keys = {"mean_values": _numbers(-offset / factor), "scale_values": _numbers(1 / factor)}
    if spec.channel_order in ("RGB", "BGR"):
        keys["reverse_input_channels"] = str(spec.channel_order == "RGB")
    return keys


def _model_api_resize(spec: Preprocessing) -> dict[str, str]:
    """Return the keys for the resize mode, if the Model API supports it."""
    square = spec.size[0] == spec.size[1] and spec.shorter_side in (None, spec.size[0])
    keys = {}
    for name, resize in MODEL_API_RESIZES.items():
        if resize == spec.resize and (square or resize != "shortest"):
            keys["resize_type"] = name
    if spec.resize in LETTERBOXES:
        keys["pad_value"] = str(spec.pad_value)
    return keys


def _label_keys(labels: Sequence[str]) -> dict[str, str]:
    """Return the keys for class names; the Model API separates names by spaces."""
    words = ["_".join(label.split()) or f"class_{i}" for i, label in enumerate(labels)]
    return {"names": str(dict(enumerate(labels))), model_api_key("labels"): " ".join(words)}


def _affine(spec: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and factor per channel: model space is `offset + factor * pixel`."""
    mean, std = (np.broadcast_to(each, spec.channels) for each in (spec.mean, spec.std))
    return -mean / std, spec.scale / std


def _numbers(values: np.ndarray) -> str:
    """Format numbers with the full precision of float32."""
    return " ".join(f"{value + 0.0:.9g}" for value in values)


def _classes(proto: onnx.ModelProto) -> int:
    """Return the number of scores if the only output is [N, K] or [N, K, 1, 1]; otherwise 0."""
    if len(proto.graph.output) != 1:
        return 0
    sides = [side.dim_value for side in proto.graph.output[0].type.tensor_type.shape.dim]
    scores = len(sides) == 2 or (len(sides) == 4 and sides[2:] == [1, 1])
    return sides[1] if scores else 0
