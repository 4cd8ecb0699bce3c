"""Resolves a model's preprocessing, each setting with its source.

Each field of the spec comes from the first source that specifies it: arguments, a spec file, the
model's metadata, files beside it, its input's type and shape, and last the ImageNet defaults, with
a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np

from ibisa_onnx.errors import OptionError, PreprocessingError
from ibisa_onnx.escaping import shortened
from ibisa_onnx.limits import Limits
from ibisa_onnx.models.signature import ImageInput, Signature
from ibisa_onnx.preprocessing.sources.base import Layer, parse_layer
from ibisa_onnx.preprocessing.sources.files import companion_layers, read_spec_file
from ibisa_onnx.preprocessing.sources.metadata import metadata_layers
from ibisa_onnx.preprocessing.spec import (
    AS_IS,
    CHANNEL_ORDERS,
    CROPPING,
    LETTERBOXES,
    PRESETS,
    Preprocessing,
    check_sizes,
)

DEFAULT_SIZE = 224
_LONGEST = 1000  # characters of a warning
_GUESS_MARK = "(assumed)"
_GUESS = f"ImageNet mean and std {_GUESS_MARK}"
_GREY_GUESS = f"0..1, default for one channel {_GUESS_MARK}"
_OTHER_GUESS = f"0..1, default for channels other than colours {_GUESS_MARK}"
_USUAL_ORDERS = {1: "GRAY", 3: "RGB", 4: "RGBA"}
# ImageNet classifiers, some with a background class: numbers of classes, and input sizes.
_IMAGENET_CLASSES = (1000, 1001)
_IMAGENET_SIDES = range(192, 332)
_VALUES = ("scale", "mean", "std")
_UPPER = ("channel_order", "layout")
_WORDS = (*_UPPER, "resize", "interpolation")
_RANK = "rank the presets with Explainer.try_preprocessing(images)"
_SINGLE = "overrides={'mean': ..., 'std': ..., 'scale': ..., 'channel_order': ...}"
_NOT_KNOWN = (
    "no preprocessing information found; assuming ImageNet mean and std. If the predictions look "
    f"wrong, {_RANK}, or pass preprocessing='caffe', 'tf', 'unit' or 'raw', or "
    f"{_SINGLE}; preprocessing='imagenet' silences this warning"
)
_GREY_NOT_KNOWN = (
    f"no preprocessing information found; assuming 0..1. If the predictions look wrong, {_RANK}, "
    "or pass preprocessing='raw', or overrides={'scale': ..., 'mean': ..., 'std': ...}; "
    "preprocessing='unit' silences this warning"
)


@dataclass(frozen=True)
class Overrides:
    """Individual preprocessing settings, which take precedence over all other sources.

    Pass one, or a dict of its fields, to `Explainer(overrides=...)`. Fields that are None are
    inferred.

    Parameters
    ----------
    preset
        Name of a preset for `scale`, `mean`, `std` and `channel_order`: "imagenet", "caffe", "tf",
        "unit" or "raw".
    mean
        One value, or one per channel in the model's order.
    std
        One value, or one per channel in the model's order.
    scale
        Factor applied to pixels 0..255 before `mean` and `std`.
    channel_order
        "RGB", "BGR", "GRAY", "RGBA", "BGRA" or "AS-IS".
    size
        Height and width of the input, in pixels.
    resize
        "shortest", "stretch", "stretch-crop", "letterbox", "letterbox-corner" or "none".
    shorter_side
        For "shortest" and "stretch-crop", in pixels.
    interpolation
        "nearest", "box", "bilinear", "bicubic" or "lanczos".
    layout
        "NCHW" or "NHWC".
    depth
        "8-bit" or "full"; see `Preprocessing`.
    pad_value
        Value of a letterbox's margins, 0..255.

    Examples
    --------
    ```python
    overrides = ibisa_onnx.Overrides(preset="caffe", resize="stretch")
    explainer = ibisa_onnx.Explainer("model.onnx", overrides=overrides)
    explainer = ibisa_onnx.Explainer("model.onnx", overrides={"mean": [0.5], "std": [0.5]})
    ```
    """

    preset: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channel_order: str | None = None
    size: tuple[int, int] | None = None
    resize: str | None = None
    shorter_side: int | None = None
    interpolation: str | None = None
    layout: str | None = None
    depth: str | None = None
    pad_value: int | None = None

    @classmethod
    def of(cls, given: Overrides | Mapping[str, Any] | None) -> Overrides:
        """Return overrides from a dict of fields, from None, or unchanged.

        Parameters
        ----------
        given
            An `Overrides`, a mapping of its fields, or None.

        Returns
        -------
        Overrides
            The overrides.

        Raises
        ------
        OptionError
            It is none of these, or a field is unknown.
        """
        if given is None or isinstance(given, cls):
            return given or cls()
        if not isinstance(given, Mapping):
            raise OptionError(
                f"overrides is a {type(given).__name__}; pass an Overrides or a dict of its fields"
            )
        known = [each.name for each in fields_of(cls)]
        for name in given:
            if name not in known:
                raise OptionError(
                    f"overrides has no field {name!r}; choose from: {', '.join(known)}"
                )
        return cls(**given)


@dataclass(frozen=True)
class ResolvedField:
    """One field of the preprocessing spec, its value, and its source.

    Attributes
    ----------
    field
        Name of the field of `Preprocessing`.
    value
        Its value.
    source
        Where the value comes from, as text.
    """

    field: str
    value: Any
    source: str

    @property
    def is_guess(self) -> bool:
        """Whether no source specifies it, so that a default is assumed."""
        return self.source.endswith(_GUESS_MARK)


_UNKNOWN = ResolvedField("", None, "")


@dataclass(frozen=True)
class Usual:
    """Defaults for one kind of model, which take precedence over ImageNet's.

    Attributes
    ----------
    source
        Description of the kind, for messages.
    values
        Fields of `Preprocessing`; also `preset`.
    """

    source: str
    values: Mapping[str, Any]

    def layer(self, channels: int) -> Layer:
        """Return the defaults, for `channels`, as a source whose fields are all assumed."""
        fields = {key: value for key, value in self.values.items() if key != "preset"}
        if "preset" in self.values and channels in (1, 3, 4):
            order = fields.get("channel_order") if channels == 3 else None
            fields = spell_out(self.values["preset"], order, channels) | fields
        if channels != 3:
            fields.pop("channel_order", None)
        return Layer(self.source, fields, guessed=frozenset(fields))


@dataclass(frozen=True)
class ResolvedPreprocessing:
    """A preprocessing spec, with the source of each field.

    Attributes
    ----------
    spec
        The preprocessing.
    resolved_fields
        The relevant fields, each with its value and source.
    warnings
        What to know about it.
    """

    spec: Preprocessing
    resolved_fields: tuple[ResolvedField, ...]
    warnings: tuple[str, ...]

    @property
    def values_are_guessed(self) -> bool:
        """Whether no source specifies how pixels become the input, so that defaults are assumed."""
        return self.spec.is_guess("mean")  # specified if only the scale is assumed


def resolve_preprocessing(
    signature: Signature,
    metadata: Mapping[str, str],
    *,
    overrides: Overrides | Mapping[str, Any] | None = None,
    file: Path | None = None,
    folder: Path | None = None,
    usual: Usual | None = None,
    limits: Limits | None = None,
) -> ResolvedPreprocessing:
    """Resolve how an image becomes the model's input.

    Parameters
    ----------
    signature
        The model's inputs and outputs.
    metadata
        Its custom metadata.
    overrides
        The user's settings, which take precedence over all other sources.
    file
        A preprocessing file: TOML, JSON, or the configuration of a training framework.
    folder
        The model's folder, which may contain such configurations; None: there is none.
    usual
        Defaults for models of its kind, which take precedence over ImageNet's.
    limits
        Limits on resized images and files; None: from the environment.

    Returns
    -------
    ResolvedPreprocessing
        The spec, with the source of each field.

    Raises
    ------
    PreprocessingError
        A setting is invalid, or contradicts the model's input.
    """
    image = signature.image
    layers = list(_override_layers(Overrides.of(overrides)))
    limits = Limits.of(limits)
    layers += [read_spec_file(file, limits)] if file is not None else []
    for layer in layers:
        _check_against_input(layer, image)
    fixed = (image.height, image.width) if image.height and image.width else None
    unasked = [*metadata_layers(metadata, fixed), *companion_layers(folder, limits)]
    unasked += [usual.layer(image.channels)] if usual is not None else []
    layers += [_unless_contradicted(layer, image, limits) for layer in unasked]
    resolved = _facts(image)
    for layer in layers:
        _add_said(resolved, layer, image.channels)
    _infer_from_type(resolved, image)
    for layer in layers:
        _add_guessed(resolved, layer)
    warnings = [warning for layer in layers for warning in layer.warnings]
    if usual is not None and resolved.get("mean", _UNKNOWN).source.startswith(usual.source):
        warnings.append(
            f"no preprocessing information found; assuming the {usual.source}. If the "
            f"predictions look wrong, pass preprocessing=, or {_SINGLE}"
        )
    warnings += _guess_values(resolved, image.channels, ranks=usual is None)
    warnings += _guess_geometry(resolved, signature)
    return _conclude(resolved, [shortened(each, _LONGEST) for each in warnings], limits)


def settle_preprocessing(
    signature: Signature,
    metadata: Mapping[str, str],
    wanted: Preprocessing | str | os.PathLike[str] | None,
    overrides: Overrides | Mapping[str, Any] | None,
    folder: Path | None = None,
    usual: Usual | None = None,
    limits: Limits | None = None,
) -> ResolvedPreprocessing:
    """Resolve the preprocessing from a whole spec, a preset, a spec file, or None.

    Parameters
    ----------
    signature
        The model's inputs and outputs.
    metadata
        Its custom metadata.
    wanted
        A spec, which is used as it is; the name of a preset; the path of a spec file; or None.
    overrides
        Individual settings, which take precedence over a preset or a file.
    folder
        The model's folder, which may contain configurations.
    usual
        Defaults for models of its kind.
    limits
        Limits on resized images and files; None: from the environment.

    Returns
    -------
    ResolvedPreprocessing
        The spec, with the source of each field.

    Raises
    ------
    PreprocessingError
        As `resolve_preprocessing`, or both a whole spec and overrides were passed.
    """
    overrides = Overrides.of(overrides)
    if isinstance(wanted, Preprocessing):
        if any(getattr(overrides, each.name) is not None for each in fields_of(overrides)):
            raise PreprocessingError(
                "overrides cannot be combined with a Preprocessing; set its fields instead "
                "(dataclasses.replace)"
            )
        check_sizes(wanted, limits)
        return ResolvedPreprocessing(wanted, (), ())
    if not isinstance(wanted, str | os.PathLike | None):
        raise PreprocessingError(
            f"preprocessing is a {type(wanted).__name__}; "
            "pass a Preprocessing, the name of a preset, or the path of a spec file"
        )
    file = None if wanted is None else Path(wanted)
    if isinstance(wanted, str) and _is_preset(wanted):
        overrides, file = replace(overrides, preset=wanted), None
    return resolve_preprocessing(
        signature,
        metadata,
        overrides=overrides,
        file=file,
        folder=folder,
        usual=usual,
        limits=limits,
    )


def _is_preset(word: str) -> bool:
    """Distinguish a preset, possibly misspelt, from a file."""
    return word in PRESETS or not (Path(word).suffix or os.path.exists(word))  # noqa: PTH110 - it never raises


def _override_layers(overrides: Overrides) -> Iterator[Layer]:
    """Yield a layer for each override, the preset last."""
    for each in fields_of(overrides):
        value = getattr(overrides, each.name)
        if value is not None and each.name != "preset":
            yield _override_layer(each.name, _plain(value))
    if overrides.preset is not None:
        preset = overrides.preset
        yield parse_layer(f"argument preprocessing={preset}", {"preset": preset})


def _override_layer(name: str, value: Any) -> Layer:
    source = f"overrides={{{name!r}: ...}}"
    if isinstance(value, str) and name in _WORDS:  # the spec checks the word
        return Layer(source, {name: value.upper() if name in _UPPER else value})
    return parse_layer(source, {name: value})


def _plain(value: Any) -> Any:
    """Convert NumPy numbers and arrays to Python's."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _check_against_input(layer: Layer, image: ImageInput) -> None:
    """Raise if a source contradicts the model's input."""
    given = layer.fields
    requires = f"but model input {image.tensor.quoted} requires"
    if given.get("layout", image.layout) != image.layout:
        raise PreprocessingError(
            f"{layer.source} sets layout {given['layout']}, {requires} {image.layout}; "
            "remove it, or open the model with that layout"
        )
    if np.dtype(given.get("dtype", image.dtype)).kind != np.dtype(image.dtype).kind:
        raise PreprocessingError(
            f"{layer.source} sets dtype {given['dtype']}, {requires} {image.dtype}; correct it"
        )
    height, width = given.get("size", (image.height, image.width))
    if height != (image.height or height) or width != (image.width or width):
        raise PreprocessingError(
            f"{layer.source} sets size {height}x{width}, {requires} "
            f"{image.height or 'any'}x{image.width or 'any'} (height x width); correct it"
        )
    order = CHANNEL_ORDERS.get(given.get("channel_order", ""))
    if order is not None and order.channels not in (None, image.channels):
        raise PreprocessingError(
            f"{layer.source} sets channel order {given['channel_order']}, {requires} "
            f"{image.channels} channel(s); correct it"
        )
    if given.get("channels", image.channels) != image.channels:
        raise PreprocessingError(
            f"{layer.source} sets {given['channels']} channels, {requires} {image.channels}; "
            "correct it"
        )


def _check_possible(layer: Layer, image: ImageInput, limits: Limits) -> None:
    """Raise if no spec for this input can have a source's values."""
    usual: dict[str, Any] = {
        "size": (image.height or 1, image.width or 1),
        "channel_order": _USUAL_ORDERS.get(image.channels, AS_IS),
        "channels": image.channels,
        "dtype": image.dtype,
    }
    try:
        spec = Preprocessing(**(usual | _fields(layer, image.channels, {})))
    except PreprocessingError as error:
        raise PreprocessingError(f"{layer.source}: {error}") from error
    _check_shorter_side(spec, layer.source)
    check_sizes(spec, limits, layer.source)


def _check_shorter_side(spec: Preprocessing, source: str) -> None:
    """Raise if the crop would be larger than the resized image."""
    if spec.shorter_side is not None and spec.shorter_side < min(spec.size):
        raise PreprocessingError(
            f"shorter side {spec.shorter_side} ({source}) is less than "
            f"the model's {min(spec.size)}; set it to at least that"
        )


def _unless_contradicted(layer: Layer, image: ImageInput, limits: Limits) -> Layer:
    """Return an implicit source, emptied with a warning if it contradicts the input.

    If only its size does, as for a network exported for larger images than it was trained on, the
    rest is used. Not an error: the user can seldom fix the model's file or the files beside it.
    """
    if (doubt := _contradiction(layer, image, limits)) is None:
        return layer
    rest = _resized(layer, image)
    if _contradiction(rest, image, limits) is None:
        return replace(rest, warnings=(*layer.warnings, f"size ignored: {doubt}"))
    return Layer(layer.source, {}, None, (*layer.warnings, f"ignored: {doubt}"))


def _contradiction(layer: Layer, image: ImageInput, limits: Limits) -> PreprocessingError | None:
    """Return why a source contradicts the input, or None."""
    try:
        _check_against_input(layer, image)
        _check_possible(layer, image, limits)
    except PreprocessingError as error:
        return error
    return None


def _resized(layer: Layer, image: ImageInput) -> Layer:
    """Return a layer without its size, and with its shorter side in proportion to the input."""
    fields = {key: value for key, value in layer.fields.items() if key != "size"}
    if "size" in layer.fields and "shorter_side" in fields and image.height and image.width:
        share = min(image.height, image.width) / min(layer.fields["size"])
        fields["shorter_side"] = round(fields["shorter_side"] * share)
    return replace(layer, fields=fields)


def _facts(image: ImageInput) -> dict[str, ResolvedField]:
    """Return what the input's type and shape determine."""
    resolved: dict[str, ResolvedField] = {}
    fields: dict[str, Any] = {"layout": str(image.layout), "dtype": image.dtype}
    fields["channels"] = image.channels
    if image.height and image.width:
        fields["size"] = (image.height, image.width)
    if image.channels not in (3, 4):
        fields["channel_order"] = _USUAL_ORDERS.get(image.channels, AS_IS)
    _add(resolved, fields, "input type and shape")
    return resolved


def _add(resolved: dict[str, ResolvedField], fields: Mapping[str, Any], source: str) -> None:
    """Add fields that no earlier source specifies."""
    for field, value in fields.items():
        resolved.setdefault(field, ResolvedField(field, value, source))


def _add_said(resolved: dict[str, ResolvedField], layer: Layer, channels: int) -> None:
    """Add a source's fields, except those it marks as assumed."""
    fields = _fields(layer, channels, resolved)
    said = {field: value for field, value in fields.items() if field not in layer.guessed}
    _add(resolved, said, layer.source)


def _add_guessed(resolved: dict[str, ResolvedField], layer: Layer) -> None:
    """Add the fields a source marks as assumed; a shorter side only if the size allows it."""
    guessed = {field: value for field, value in layer.fields.items() if field in layer.guessed}
    size = resolved["size"].value if "size" in resolved else guessed.get("size")
    if size is not None and guessed.get("shorter_side", min(size)) < min(size):
        del guessed["shorter_side"]
    _add(resolved, guessed, f"{layer.source} {_GUESS_MARK}")


def _fields(layer: Layer, channels: int, resolved: Mapping[str, ResolvedField]) -> dict[str, Any]:
    """Return a layer's fields, with its preset expanded."""
    fields = dict(layer.fields)
    if layer.preset is None:
        return fields
    order = resolved["channel_order"].value if "channel_order" in resolved else None
    return spell_out(layer.preset, fields.get("channel_order", order), channels) | fields


def spell_out(preset: str, order: str | None, channels: int) -> dict[str, Any]:
    """Return a preset's fields for the model's channels; mean and std follow their colours."""
    values = PRESETS[preset]
    mean, std = values.mean, values.std
    order = order or {1: "GRAY", 3: "", 4: "A"}.get(channels, AS_IS)
    order = values.channel_order + order if order in ("", "A") else order
    if order == AS_IS and channels == 3:  # images are RGB
        mean, std = (mean[::-1], std[::-1]) if values.channel_order == "BGR" else (mean, std)
    elif order in ("GRAY", AS_IS):
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    elif order[0] != values.channel_order[0]:
        mean, std = mean[::-1], std[::-1]
    if len(order) == 4 and len(mean) == 3:  # alpha unchanged
        mean, std = (*mean, 0.0), (*std, 1.0)
    return {"channel_order": order, "scale": values.scale, "mean": mean, "std": std}


def _infer_from_type(resolved: dict[str, ResolvedField], image: ImageInput) -> None:
    """Use pixel values unchanged if the input is of an integer dtype."""
    dtype = np.dtype(image.dtype)
    if dtype.kind not in "iu" or any(field in resolved for field in _VALUES):
        return
    fields = spell_out("raw", _value(resolved, "channel_order"), image.channels)
    what = "bytes" if dtype.itemsize == 1 else "values"
    source = f"input type {dtype}: the image's {what}, unchanged"
    if dtype == np.int8:
        fields["mean"] = (128.0,)
        source = f"input type {dtype}: the image's bytes minus 128"
    _add(resolved, fields, source)


def _guess_values(resolved: dict[str, ResolvedField], channels: int, *, ranks: bool) -> list[str]:
    """Fill in scale, mean, std and channel order that no source specifies; return a warning.

    `ranks` is whether presets can be ranked by the model's predictions.
    """
    said = [field for field in _VALUES if field in resolved]
    if not said:
        colours = channels in (3, 4)
        preset = "imagenet" if colours else "unit"
        source = _GUESS if colours else _GREY_GUESS if channels == 1 else _OTHER_GUESS
        _add(resolved, spell_out(preset, _value(resolved, "channel_order"), channels), source)
        warning = _NOT_KNOWN if colours else _GREY_NOT_KNOWN
        return [warning if ranks else warning.replace(f"{_RANK}, or ", "")]
    missing = [field for field in (*_VALUES, "channel_order") if field not in resolved]
    _add(resolved, {"mean": (0.0,), "std": (1.0,)}, "not specified")
    sizes = np.abs([*resolved["mean"].value, *resolved["std"].value])
    scale = 1.0 if sizes.max() > 2 else 1 / 255
    _add(resolved, {"scale": scale}, f"magnitude of mean and std {_GUESS_MARK}")
    order = "RGBA" if channels == 4 else "RGB"
    _add(resolved, {"channel_order": order}, f"default {_GUESS_MARK}")
    if not missing:
        return []
    named = ", ".join(f"{field} = {resolved[field].value}" for field in missing)
    return [f"incomplete preprocessing: only {' and '.join(said)} specified; assuming {named}"]


def _guess_geometry(resolved: dict[str, ResolvedField], signature: Signature) -> list[str]:
    """Fill in size, resize mode and interpolation that no source specifies."""
    image = signature.image
    size = (image.height or DEFAULT_SIZE, image.width or DEFAULT_SIZE)
    _add(resolved, {"size": size}, f"dynamic in the model: {DEFAULT_SIZE} {_GUESS_MARK}")
    height, width = resolved["size"].value
    warnings = []
    if resolved["size"].is_guess:
        warnings.append(
            f"the model's height and width are dynamic; assuming {height}x{width}. Pass "
            "overrides={'size': ...} if it was trained at another"
        )
    if height == width and height in _IMAGENET_SIDES and _has_imagenet_classes(signature):
        source = f"default for ImageNet classifiers {_GUESS_MARK}"
        _add(resolved, {"resize": "shortest"}, source)
    else:
        _add(resolved, {"resize": "stretch"}, f"default, the whole image {_GUESS_MARK}")
    # Small inputs (digits, CIFAR) are hardly ever cropped; larger ones like 224 from 256.
    side = min(height, width)
    shorter = round(side * 256 / 224) if side >= 128 else side
    _add(resolved, {"shorter_side": shorter}, f"default, 256 for a 224 crop {_GUESS_MARK}")
    _add(resolved, {"interpolation": "bilinear"}, f"default {_GUESS_MARK}")
    return warnings


def _has_imagenet_classes(signature: Signature) -> bool:
    """Return whether an output is one score per ImageNet class and image."""
    for output in signature.outputs:
        sides = [side for side in output.shape[1:] if side != 1]
        if len(output.shape) > 1 and len(sides) == 1 and sides[0] in _IMAGENET_CLASSES:
            return True
    return False


def _value(resolved: Mapping[str, ResolvedField], field: str) -> Any:
    return resolved[field].value if field in resolved else None


def _conclude(
    resolved: dict[str, ResolvedField], warnings: Sequence[str], limits: Limits
) -> ResolvedPreprocessing:
    """Build the spec, which validates itself, with the resolved fields in the spec's order."""
    if resolved["resize"].value not in CROPPING:
        del resolved["shorter_side"]
    if resolved["resize"].value not in LETTERBOXES:
        resolved.pop("pad_value", None)
    if resolved["channel_order"].value != AS_IS:
        del resolved["channels"]  # follows from the order
    order = [each.name for each in fields_of(Preprocessing) if each.name in resolved]
    try:
        guessed = tuple(field for field in order if resolved[field].is_guess)
        spec = Preprocessing(**{field: resolved[field].value for field in order}, guessed=guessed)
    except PreprocessingError as error:
        fields = [each for each in (*_VALUES, "channel_order") if each in str(error)]
        sources = dict.fromkeys(resolved[each].source for each in fields or _VALUES)
        raise PreprocessingError(f"{error} (values from: {'; '.join(sources)})") from error
    if "shorter_side" in resolved:
        _check_shorter_side(spec, resolved["shorter_side"].source)
    said = [resolved[field].source for field in ("size", "shorter_side") if field in resolved]
    check_sizes(spec, limits, "; ".join(dict.fromkeys(said)))
    return ResolvedPreprocessing(spec, tuple(resolved[field] for field in order), tuple(warnings))
