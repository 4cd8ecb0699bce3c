"""The preprocessing of a model as it is inferred, each field with its source.

Each field of the spec is taken from the first source that says something on it: flags, a spec file,
the model's metadata, files beside it, its input's type and shape, and last ImageNet's usual values,
with a warning.
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
_GUESS = "ImageNet's usual values (a guess)"
_GREY_GUESS = "0..1, usual for one channel (a guess)"
_OTHER_GUESS = "0..1, usual where channels are no colours (a guess)"
_GUESS_MARK = "(a guess)"
_USUAL_ORDERS = {1: "GRAY", 3: "RGB", 4: "RGBA"}
# ImageNet's classifiers, some of which have a class for the background, by classes and pixels.
_IMAGENET_CLASSES = (1000, 1001)
_IMAGENET_SIDES = range(192, 332)
_VALUES = ("scale", "mean", "std")
_UPPER = ("channel_order", "layout")
_WORDS = (*_UPPER, "resize", "interpolation")
_NOT_KNOWN = (
    "how pixels become this model's input is not known, so ImageNet's usual values are taken; if "
    "the answer looks wrong, give preprocessing=caffe, tf, unit or raw, or mean=, std=, "
    "scale= and channel_order= (preprocessing=imagenet says that they are right)"
)
_GREY_NOT_KNOWN = (
    "how pixels become this model's input is not known, so 0..1 is taken; if the answer looks "
    "wrong, give preprocessing=raw, or scale=, mean= and std= (preprocessing=unit says that "
    "0..1 is right)"
)


@dataclass(frozen=True)
class Overrides:
    """What the user says on preprocessing; None: nothing."""

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
        """Return what was given as keywords of this class, or as one of it.

        Raises
        ------
        OptionError
            It is neither, or names what there is not.
        """
        if given is None or isinstance(given, cls):
            return given or cls()
        if not isinstance(given, Mapping):
            raise OptionError(
                f"overrides is {type(given).__name__}; give an Overrides, or a dict of its fields"
            )
        known = [each.name for each in fields_of(cls)]
        for name in given:
            if name not in known:
                raise OptionError(f"overrides has no {name!r}; choose from: {', '.join(known)}")
        return cls(**given)


@dataclass(frozen=True)
class ResolvedField:
    """One field of the spec, its value, and in words where that comes from."""

    field: str
    value: Any
    source: str

    @property
    def is_guess(self) -> bool:
        """Whether nothing says it, so that the usual is taken."""
        return self.source.endswith(_GUESS_MARK)


_UNKNOWN = ResolvedField("", None, "")


@dataclass(frozen=True)
class Usual:
    """What is usual for models of one kind: a guess, but a better one than ImageNet's values.

    Attributes
    ----------
    source
        "usual for YOLOX".
    values
        Fields of `Preprocessing`; also `preset`.
    """

    source: str
    values: Mapping[str, Any]

    def layer(self, channels: int) -> Layer:
        """Return it as a source, whose every field is a guess; `channels` are the input's."""
        fields = {key: value for key, value in self.values.items() if key != "preset"}
        if "preset" in self.values and channels in (1, 3, 4):
            order = fields.get("channel_order") if channels == 3 else None
            fields = spell_out(self.values["preset"], order, channels) | fields
        if channels != 3:
            fields.pop("channel_order", None)
        return Layer(self.source, fields, guessed=frozenset(fields))


@dataclass(frozen=True)
class ResolvedPreprocessing:
    """The spec, one field for each field that matters, and what a user should know."""

    spec: Preprocessing
    resolved_fields: tuple[ResolvedField, ...]
    warnings: tuple[str, ...]

    @property
    def values_are_guessed(self) -> bool:
        """Whether nothing says how pixels become the input, so that the usual is taken."""
        return self.spec.is_guess("mean")  # which alone is left out where only scale is guessed


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
    """Settle how a picture becomes the model's input.

    Parameters
    ----------
    signature
        The model's inputs and outputs.
    metadata
        Its custom metadata.
    overrides
        What the user said; goes before all else.
    file
        A preprocessing file: TOML, JSON, or the configuration of a training framework.
    folder
        The model's, where such configurations may lie beside it; None: there is none.
    usual
        What is usual for models of its kind, which goes before ImageNet's values alone.
    limits
        How large pictures may become, and files be; None: as the environment says.

    Raises
    ------
    PreprocessingError
        A source says something impossible, or contradicts the model's input.
    """
    image = signature.image
    layers = list(_override_layers(Overrides.of(overrides)))
    limits = limits or Limits.from_environment()
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
            f"how pixels become this model's input is not said, so it is taken as {usual.source}; "
            "if the answer looks wrong, give preprocessing=, or mean=, std=, scale=, channel_order="
        )
    warnings += _guess_values(resolved, image.channels)
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
    """Settle the preprocessing from what a user gave for it: a whole spec, a preset, or a file.

    Parameters
    ----------
    wanted
        A spec, which is taken as it is; the name of a preset; the path of a spec file; or None.
    overrides
        Single values, which go before a preset or a file.
    folder
        The model's, where files may say something of it.
    usual
        What is usual for models of its kind.
    limits
        As of `resolve_preprocessing`.

    Raises
    ------
    PreprocessingError
        As `resolve_preprocessing`, or a whole spec was given and overrides too.
    """
    overrides = Overrides.of(overrides)
    if isinstance(wanted, Preprocessing):
        if overrides != Overrides():
            raise PreprocessingError(
                "a whole Preprocessing was given, and overrides; put them into it "
                "(dataclasses.replace)"
            )
        check_sizes(wanted, limits)
        return ResolvedPreprocessing(wanted, (), ())
    if not isinstance(wanted, str | os.PathLike | None):
        raise PreprocessingError(
            f"preprocessing is a {type(wanted).__name__}; "
            "give a Preprocessing, the name of a preset, or the path of a spec file"
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
    """Tell a preset, also a misspelt one, from a file."""
    return word in PRESETS or not (Path(word).suffix or os.path.exists(word))  # noqa: PTH110 - it never raises


def _override_layers(overrides: Overrides) -> Iterator[Layer]:
    """Yield a layer for each value that was given, the preset last."""
    for each in fields_of(overrides):
        value = getattr(overrides, each.name)
        if value is not None and each.name != "preset":
            yield _override_layer(each.name, _plain(value))
    if overrides.preset is not None:
        preset = overrides.preset
        yield parse_layer(f"argument preprocessing={preset}", {"preset": preset})


def _override_layer(name: str, value: Any) -> Layer:
    source = f"argument {name}="
    if isinstance(value, str) and name in _WORDS:  # which word it may be is checked by the spec
        return Layer(source, {name: value.upper() if name in _UPPER else value})
    return parse_layer(source, {name: value})


def _plain(value: Any) -> Any:
    """Return NumPy's numbers and arrays as Python's."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _check_against_input(layer: Layer, image: ImageInput) -> None:
    """Raise where a source contradicts what the model's input plainly is."""
    said = layer.fields
    takes = f"but input {image.tensor} takes"
    if said.get("layout", image.layout) != image.layout:
        raise PreprocessingError(
            f"{layer.source} says layout {said['layout']}, {takes} {image.layout}; "
            "drop it, or open the model with that layout"
        )
    if np.dtype(said.get("dtype", image.dtype)).kind != np.dtype(image.dtype).kind:
        raise PreprocessingError(
            f"{layer.source} says dtype {said['dtype']}, {takes} {image.dtype}; correct it"
        )
    height, width = said.get("size", (image.height, image.width))
    if height != (image.height or height) or width != (image.width or width):
        raise PreprocessingError(
            f"{layer.source} says size {height} x {width}, {takes} "
            f"{image.height or 'any'} x {image.width or 'any'} (height x width); correct it"
        )
    order = CHANNEL_ORDERS.get(said.get("channel_order", ""))
    if order is not None and order.channels not in (None, image.channels):
        raise PreprocessingError(
            f"{layer.source} says channel order {said['channel_order']}, {takes} "
            f"{image.channels} channel(s); correct it"
        )
    if said.get("channels", image.channels) != image.channels:
        raise PreprocessingError(
            f"{layer.source} says {said['channels']} channels, {takes} {image.channels}; correct it"
        )


def _check_possible(layer: Layer, image: ImageInput, limits: Limits) -> None:
    """Raise where no spec of this input can have what a source says."""
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
    """Raise where cropping would need more than there is."""
    if spec.shorter_side is not None and spec.shorter_side < min(spec.size):
        raise PreprocessingError(
            f"shorter side {spec.shorter_side} ({source}) is less than "
            f"the model's {min(spec.size)}; give at least that"
        )


def _unless_contradicted(layer: Layer, image: ImageInput, limits: Limits) -> Layer:
    """Return a layer that nobody asked for, emptied with a warning where it cannot be true.

    Where only its size cannot, as beside a network exported for larger pictures than it was trained
    with, the rest stands. Not an error: the owner of an image can seldom mend the model's file, or
    what lies beside it.
    """
    if (doubt := _contradiction(layer, image, limits)) is None:
        return layer
    rest = _resized(layer, image)
    if _contradiction(rest, image, limits) is None:
        return replace(rest, warnings=(*layer.warnings, f"size ignored: {doubt}"))
    return Layer(layer.source, {}, None, (*layer.warnings, f"ignored: {doubt}"))


def _contradiction(layer: Layer, image: ImageInput, limits: Limits) -> PreprocessingError | None:
    """Return why a layer cannot be true of the input, None where it can."""
    try:
        _check_against_input(layer, image)
        _check_possible(layer, image, limits)
    except PreprocessingError as error:
        return error
    return None


def _resized(layer: Layer, image: ImageInput) -> Layer:
    """Return a layer with its shorter side in proportion to the input, and no size of its own."""
    fields = {key: value for key, value in layer.fields.items() if key != "size"}
    if "size" in layer.fields and "shorter_side" in fields and image.height and image.width:
        share = min(image.height, image.width) / min(layer.fields["size"])
        fields["shorter_side"] = round(fields["shorter_side"] * share)
    return replace(layer, fields=fields)


def _facts(image: ImageInput) -> dict[str, ResolvedField]:
    """Return what the input's type and shape leave no doubt about."""
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
    """Believe what nothing higher has settled."""
    for field, value in fields.items():
        resolved.setdefault(field, ResolvedField(field, value, source))


def _add_said(resolved: dict[str, ResolvedField], layer: Layer, channels: int) -> None:
    """Believe a source, but for what it marks as guesses."""
    fields = _fields(layer, channels, resolved)
    said = {field: value for field, value in fields.items() if field not in layer.guessed}
    _add(resolved, said, layer.source)


def _add_guessed(resolved: dict[str, ResolvedField], layer: Layer) -> None:
    """Take over what a source marks as guesses; a shorter side only where it suits the size."""
    guessed = {field: value for field, value in layer.fields.items() if field in layer.guessed}
    size = resolved["size"].value if "size" in resolved else guessed.get("size")
    if size is not None and guessed.get("shorter_side", min(size)) < min(size):
        del guessed["shorter_side"]
    _add(resolved, guessed, f"{layer.source} {_GUESS_MARK}")


def _fields(layer: Layer, channels: int, resolved: Mapping[str, ResolvedField]) -> dict[str, Any]:
    """Return a layer's fields, its preset spelled out."""
    fields = dict(layer.fields)
    if layer.preset is None:
        return fields
    order = resolved["channel_order"].value if "channel_order" in resolved else None
    return spell_out(layer.preset, fields.get("channel_order", order), channels) | fields


def spell_out(preset: str, order: str | None, channels: int) -> dict[str, Any]:
    """Return a preset's fields for the model's channels; mean and std stay with their colours."""
    values = PRESETS[preset]
    mean, std = values.mean, values.std
    order = order or {1: "GRAY", 3: "", 4: "A"}.get(channels, AS_IS)
    order = values.channel_order + order if order in ("", "A") else order
    if order == AS_IS and channels == 3:  # those of pictures are RGB
        mean, std = (mean[::-1], std[::-1]) if values.channel_order == "BGR" else (mean, std)
    elif order in ("GRAY", AS_IS):
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    elif order[0] != values.channel_order[0]:
        mean, std = mean[::-1], std[::-1]
    if len(order) == 4 and len(mean) == 3:  # alpha as it is
        mean, std = (*mean, 0.0), (*std, 1.0)
    return {"channel_order": order, "scale": values.scale, "mean": mean, "std": std}


def _infer_from_type(resolved: dict[str, ResolvedField], image: ImageInput) -> None:
    """Take the bytes as they are where the input is of integers."""
    dtype = np.dtype(image.dtype)
    if dtype.kind not in "iu" or any(field in resolved for field in _VALUES):
        return
    fields = spell_out("raw", _value(resolved, "channel_order"), image.channels)
    what = "bytes" if dtype.itemsize == 1 else "values"
    source = f"input type {dtype}: the picture's {what} as they are"
    if dtype == np.int8:
        fields["mean"] = (128.0,)
        source = f"input type {dtype}: the picture's bytes less 128"
    _add(resolved, fields, source)


def _guess_values(resolved: dict[str, ResolvedField], channels: int) -> list[str]:
    """Fill in scale, mean, std and channel order where no source says them; warn of it."""
    said = [field for field in _VALUES if field in resolved]
    if not said:
        colours = channels in (3, 4)
        preset = "imagenet" if colours else "unit"
        source = _GUESS if colours else _GREY_GUESS if channels == 1 else _OTHER_GUESS
        _add(resolved, spell_out(preset, _value(resolved, "channel_order"), channels), source)
        return [_NOT_KNOWN if colours else _GREY_NOT_KNOWN]
    missing = [field for field in (*_VALUES, "channel_order") if field not in resolved]
    _add(resolved, {"mean": (0.0,), "std": (1.0,)}, "not said, so left out")
    sizes = np.abs([*resolved["mean"].value, *resolved["std"].value])
    scale = 1.0 if sizes.max() > 2 else 1 / 255
    _add(resolved, {"scale": scale}, "the size of mean and std (a guess)")
    _add(resolved, {"channel_order": "RGBA" if channels == 4 else "RGB"}, "usual (a guess)")
    if not missing:
        return []
    named = ", ".join(f"{field} = {resolved[field].value}" for field in missing)
    return [f"{' and '.join(said)} are said but not all of preprocessing; taken: {named}"]


def _guess_geometry(resolved: dict[str, ResolvedField], signature: Signature) -> list[str]:
    """Fill in size, resizing and interpolation where no source says them."""
    image = signature.image
    size = (image.height or DEFAULT_SIZE, image.width or DEFAULT_SIZE)
    _add(resolved, {"size": size}, f"the model leaves it open: {DEFAULT_SIZE} {_GUESS_MARK}")
    height, width = resolved["size"].value
    warnings = []
    if resolved["size"].is_guess:
        warnings.append(
            f"the model leaves height and width open; {height} x {width} is taken: "
            "give size= if it was made for another"
        )
    if height == width and height in _IMAGENET_SIDES and _has_imagenet_classes(signature):
        source = f"usual for ImageNet's classes {_GUESS_MARK}"
        _add(resolved, {"resize": "shortest"}, source)
    else:
        _add(resolved, {"resize": "stretch"}, f"the whole picture, nothing cut {_GUESS_MARK}")
    # Small inputs (digits, CIFAR) are hardly ever cropped; larger ones as 224 from 256.
    side = min(height, width)
    shorter = round(side * 256 / 224) if side >= 128 else side
    _add(resolved, {"shorter_side": shorter}, f"as 256 for 224 {_GUESS_MARK}")
    _add(resolved, {"interpolation": "bilinear"}, f"usual {_GUESS_MARK}")
    return warnings


def _has_imagenet_classes(signature: Signature) -> bool:
    """Tell whether an output is one row of scores of ImageNet's classes for each image."""
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
    """Build the spec, which checks itself, and put the resolved in the spec's order."""
    if resolved["resize"].value not in CROPPING:
        del resolved["shorter_side"]
    if resolved["resize"].value not in LETTERBOXES:
        resolved.pop("pad_value", None)
    if resolved["channel_order"].value != AS_IS:
        del resolved["channels"]  # which the order tells
    order = [each.name for each in fields_of(Preprocessing) if each.name in resolved]
    try:
        guessed = tuple(field for field in order if resolved[field].is_guess)
        spec = Preprocessing(**{field: resolved[field].value for field in order}, guessed=guessed)
    except PreprocessingError as error:
        sources = dict.fromkeys(resolved[field].source for field in (*_VALUES, "channel_order"))
        raise PreprocessingError(f"{error} (values from: {'; '.join(sources)})") from error
    if "shorter_side" in resolved:
        _check_shorter_side(spec, resolved["shorter_side"].source)
    said = [resolved[field].source for field in ("size", "shorter_side") if field in resolved]
    check_sizes(spec, limits, "; ".join(dict.fromkeys(said)))
    return ResolvedPreprocessing(spec, tuple(resolved[field] for field in order), tuple(warnings))
