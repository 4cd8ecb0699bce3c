"""The preprocessing spec, and how it is applied: from an image to the model's input and back.

Model space is `(pixel * scale - mean) / std`, channels in the model's order. Pixels are 0..255, or
the image's own values if the spec is for those (`Preprocessing.takes_own_values`). Where a spec
comes from (arguments, files, metadata, defaults) is in `resolve.py`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import check_type, shown
from ibisa_onnx.errors import ImageError, PreprocessingError
from ibisa_onnx.io.images import DeepValues, Picture
from ibisa_onnx.io.pixels import MAX_CHANNELS, to_rgb
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.models.signature import IMAGE_DTYPES, Layout
from ibisa_onnx.preprocessing.geometry import Geometry, Placement
from ibisa_onnx.preprocessing.resampling import KERNELS, resample


@dataclass(frozen=True)
class ChannelOrder:
    """Converts RGB pixels to a model's channels, and back (both [H, W, C]).

    Attributes
    ----------
    channels
        Number of channels; None: any, and the image must have as many.
    from_rgb
        Converts pixels and the value of white to the model's channels.
    to_rgb
        Converts the model's channels to RGB.
    """

    channels: int | None
    from_rgb: Callable[[npt.NDArray[Any], float], npt.NDArray[Any]]
    to_rgb: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _to_grey(rgb: npt.NDArray[Any], white: float) -> npt.NDArray[Any]:
    """Return Rec. 601 luminance; integers are rounded."""
    weights = np.array([0.299, 0.587, 0.114])
    if rgb.dtype.kind == "f":
        return np.asarray(rgb @ weights, rgb.dtype)[..., None]
    weights = weights.astype(np.float32) if rgb.dtype == np.uint8 else weights
    grey = np.rint(rgb.astype(weights.dtype) @ weights)
    return np.asarray(grey[..., None], rgb.dtype)


def _with_opaque_alpha(rgb: npt.NDArray[Any], white: float) -> npt.NDArray[Any]:
    return np.concatenate([rgb, np.full_like(rgb[..., :1], white)], axis=2)


def _first_colours(channels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Show arbitrary channels: the first three as RGB, or the first as grey if there are two."""
    few = channels.shape[2] < 3
    return np.repeat(channels[..., :1], 3, axis=2) if few else channels[..., :3]


AS_IS = "AS-IS"
CHANNEL_ORDERS: Mapping[str, ChannelOrder] = MappingProxyType(
    {
        "RGB": ChannelOrder(3, lambda rgb, white: rgb, lambda x: x),
        "BGR": ChannelOrder(3, lambda rgb, white: rgb[..., ::-1], lambda x: x[..., ::-1]),
        "GRAY": ChannelOrder(1, _to_grey, lambda x: np.repeat(x, 3, axis=2)),
        "RGBA": ChannelOrder(4, _with_opaque_alpha, lambda x: x[..., :3]),
        "BGRA": ChannelOrder(
            4, lambda rgb, white: _with_opaque_alpha(rgb[..., ::-1], white), lambda x: x[..., 2::-1]
        ),
        AS_IS: ChannelOrder(None, lambda rgb, white: rgb, _first_colours),
    }
)
DEPTHS = ("8-bit", "full")
Sides = tuple[float, float]
"""Height and width."""


MOST_SIDE = 2**31 - 1
"""Maximum side of an image in pixels, from any source; `Limits` may allow fewer."""
_LEAST_SPAN = 0.5  # of 0..255 in model space; common specs have 1 or more
_LEAST_CUT, _LEAST_STRETCH, _LEAST_ENLARGEMENT = 0.005, 0.02, 1.02  # worth a warning
_MOST_VALUE = 1e18  # of an input: its square, summed, still fits into float32
_OTHER_CHANNELS = (
    "{} has {} channel(s), but the model requires {}; pass a TIFF or .npy file [H, W, C] with as "
    "many"
)
PAD_VALUE = 114
"""The grey of most letterboxes."""
LETTERBOXES = ("letterbox", "letterbox-corner")
"""Resize modes that use `pad_value`."""
_MEAN_COLOUR = (124, 116, 104)  # of ImageNet, RGB


@dataclass(frozen=True)
class Preset:
    """A common formula from pixels to model space: `(pixel * scale - mean) / std`."""

    channel_order: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "imagenet": Preset("RGB", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "caffe": Preset("BGR", 1.0, (103.53, 116.28, 123.675), (1.0,)),
        "tf": Preset("RGB", 1 / 127.5, (1.0,), (1.0,)),
        "unit": Preset("RGB", 1 / 255, (0.0,), (1.0,)),
        "raw": Preset("RGB", 1.0, (0.0,), (1.0,)),
    }
)


def _centred(resized: tuple[int, int], size: tuple[int, int], fill: int) -> Placement:
    """Align the centres of the resized image and the input."""
    # Rounded as torchvision's CenterCrop does: half a pixel goes to the even side.
    top, left = (
        -round((has - want) / 2) if has >= want else (want - has) // 2
        for has, want in zip(resized, size, strict=True)
    )
    return Placement(resized, top, left, fill)


def _shortest(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Resize the shorter side to `shorter_side`, then crop the centre (or pad with black)."""
    target, short = spec.shorter_side or min(spec.size), min(picture)
    height, width = (
        target if side == short else max(1, target * side // short) for side in picture
    )
    return _centred((height, width), spec.size, 0)


def _stretch(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Resize the whole image to the input's size, ignoring its aspect ratio."""
    return Placement(spec.size, 0, 0, 0)


def enlarged(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Return the input's height and width, scaled to the given shorter side."""
    height, width = (round(side * shorter_side / min(size)) for side in size)
    return height, width


def _stretch_crop(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Stretch the whole image to more than the input's size, then crop the centre."""
    target = spec.shorter_side or min(spec.size)
    return _centred(enlarged(spec.size, target), spec.size, 0)


def _fitted(picture: tuple[int, int], spec: Preprocessing) -> tuple[float, float]:
    """Return the largest height and width that fit the input with the image's aspect ratio."""
    ratio = min(want / has for want, has in zip(spec.size, picture, strict=True))
    return picture[0] * ratio, picture[1] * ratio


def _letterbox(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Fit the whole image into the centre, keeping its aspect ratio, with margins."""
    height, width = (max(1, round(side)) for side in _fitted(picture, spec))
    return _centred((height, width), spec.size, spec.pad_value)


def _letterbox_corner(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Fit the whole image into the top-left corner, with sides rounded down, as YOLOX does."""
    height, width = (max(1, int(side + 1e-6)) for side in _fitted(picture, spec))
    return Placement((height, width), 0, 0, spec.pad_value)


def _as_it_is(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Use the image unchanged; it must have the input's size."""
    if picture != spec.size:
        raise ImageError(
            f"the image is {picture[0]}x{picture[1]} (height x width), but the model requires "
            f"{spec.size[0]}x{spec.size[1]}; resize it, or pass "
            "overrides={'resize': 'shortest'}"
        )
    return Placement(picture, 0, 0, 0)


RESIZES: Mapping[str, Callable[[tuple[int, int], Preprocessing], Placement]] = MappingProxyType(
    {
        "shortest": _shortest,
        "stretch": _stretch,
        "stretch-crop": _stretch_crop,
        "letterbox": _letterbox,
        "letterbox-corner": _letterbox_corner,
        "none": _as_it_is,
    }
)
CROPPING = frozenset({"shortest", "stretch-crop"})
"""Resize modes that use `shorter_side`."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the model's input; pass one to `Explainer(preprocessing=...)`.

    Model space is `(pixel * scale - mean) / std`, with pixels in 0..255.

    Parameters
    ----------
    size
        Height and width of the model's input, in pixels.
    resize
        "shortest" (resize the shorter side to `shorter_side`, crop the centre), "stretch",
        "stretch-crop" (stretch to `shorter_side` with the aspect ratio of `size`, crop the centre),
        "letterbox" (keep the aspect ratio, centred with margins), "letterbox-corner" (the same in
        the top-left corner) or "none" (the image must have the input's size).
    shorter_side
        For "shortest" and "stretch-crop", in pixels; None: the shorter side of `size`.
    interpolation
        "nearest", "box", "bilinear", "bicubic" or "lanczos", antialiased as in Pillow.
    channel_order
        "RGB", "BGR", "GRAY", "RGBA" or "BGRA" (opaque alpha), or "AS-IS": the image's own channels,
        as many as the model requires.
    scale
        Factor applied to pixels; not 0.
    mean
        Subtracted after scaling: one value, or one per channel in the model's order.
    std
        Divided by last: one value, or one per channel in the model's order; not 0.
    layout
        "NCHW" or "NHWC".
    dtype
        NumPy dtype name of the model's input.
    channels
        Number of channels of the input; follows from the channel order, except for "AS-IS", where
        it is 1 to 16.
    depth
        How images of more than 8 bits enter the formula: "8-bit", scaled to 0..255, or "full", with
        their own values. None: see `takes_own_values`.
    pad_value
        Value of a letterbox's margins, 0..255.
    guessed
        Names of the fields that no source specifies. An image that already has the input's size is
        not resized by an assumed resize mode.

    Raises
    ------
    PreprocessingError
        A value is invalid, or two contradict each other.

    Examples
    --------
    ```python
    spec = ibisa_onnx.Preprocessing(
        size=(224, 224),
        resize="shortest",
        shorter_side=256,
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    explainer = ibisa_onnx.Explainer("model.onnx", preprocessing=spec)
    ```
    """

    size: tuple[int, int]
    resize: str = "shortest"
    shorter_side: int | None = None
    interpolation: str = "bilinear"
    channel_order: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    dtype: str = "float32"
    channels: int = 0
    depth: str | None = None
    pad_value: int = PAD_VALUE
    guessed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        guessed = self.guessed if isinstance(self.guessed, tuple | list) else [None]
        if not all(isinstance(each, str) for each in guessed):
            raise PreprocessingError(f"guessed is {shown(self.guessed)}; pass names of fields")
        object.__setattr__(self, "guessed", tuple(guessed))
        _check_choice("resize", self.resize, RESIZES)
        _check_choice("interpolation", self.interpolation, KERNELS)
        _check_choice("channel order", self.channel_order, CHANNEL_ORDERS)
        _check_choice("layout", self.layout, tuple(Layout))
        _check_choice("dtype", self.dtype, sorted(IMAGE_DTYPES))
        if self.depth is not None:
            _check_choice("depth", self.depth, DEPTHS)
        object.__setattr__(self, "channels", self._count_channels())
        sides = self.size if isinstance(self.size, tuple | list) else ()
        if len(sides) != 2 or not all(map(_is_side, sides)):
            raise PreprocessingError(f"size is {self.size!r:.80}; pass (height, width) in pixels")
        if self.shorter_side is not None and not _is_side(self.shorter_side):
            raise PreprocessingError(
                f"shorter side is {self.shorter_side!r:.80}; pass an integer, 1 or more"
            )
        if not _is_whole(self.pad_value) or not 0 <= self.pad_value <= 255:
            raise PreprocessingError(
                f"pad value is {self.pad_value!r:.80}; pass an integer, 0 to 255"
            )
        if not _is_finite(self.scale) or self.scale == 0:
            raise PreprocessingError(f"scale is {self.scale!r:.80}; pass a number other than 0")
        self._check_channels("mean", self.mean)
        self._check_channels("std", self.std)
        if 0 in self.std:
            raise PreprocessingError(f"std is {list(self.std)}; it is a divisor and cannot be 0")
        self._check_range()

    @property
    def takes_own_values(self) -> bool:
        """Whether images of more than 8 bits enter the formula with their own values.

        If `depth` is None, they do if the formula leaves values unchanged, or maps 0..255 to a
        range below 0.5; never for inputs of 8 bits.
        """
        if self.depth is not None or np.dtype(self.dtype).itemsize == 1:
            return self.depth == "full"
        largest = max(abs(self.scale / each) for each in self.std)
        return _is_identity(self) or 255 * largest < _LEAST_SPAN

    def is_guess(self, *fields: str) -> bool:
        """Return whether no source specifies one of these fields."""
        return not set(fields).isdisjoint(self.guessed)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON data, without fields that follow from the others."""
        values = dataclasses.asdict(self)
        if self.channel_order != AS_IS:
            del values["channels"]
        for field, usual in (("depth", None), ("guessed", ()), ("pad_value", PAD_VALUE)):
            if values[field] == usual:
                del values[field]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Build a spec from what `to_dict` returned.

        Raises
        ------
        PreprocessingError
            A field is unknown, missing or invalid.
        """
        check_type("preprocessing", values, Mapping, "a table of its fields", PreprocessingError)
        unknown = set(values) - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            raise PreprocessingError(f"unknown preprocessing field {min(unknown, key=str)!r:.80}")
        if "size" not in values:
            raise PreprocessingError("preprocessing has no size; specify (height, width)")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)

    def _count_channels(self) -> int:
        """Return the number of channels; raise if neither order nor number determines it."""
        count = CHANNEL_ORDERS[self.channel_order].channels or self.channels
        if not _is_whole(count) or not 1 <= count <= MAX_CHANNELS:
            raise PreprocessingError(
                f"channels is {self.channels!r:.80}; {self.channel_order} requires 1 to "
                f"{MAX_CHANNELS}"
            )
        return count

    def _check_channels(self, name: str, values: Sequence[float]) -> None:
        """Raise unless there is one value, or one per channel."""
        given = values if isinstance(values, tuple | list | np.ndarray) and np.ndim(values) else ()
        if len(given) not in (1, self.channels) or not all(map(_is_finite, given)):
            raise PreprocessingError(
                f"{name} is {list(given) or values!r:.200}; {self.channel_order} requires 1 or "
                f"{self.channels} numbers"
            )

    def _check_range(self) -> None:
        """Raise if the input's dtype cannot hold the values."""
        ends = _values(np.array([0, 255]), self)
        low, high = float(ends.min()), float(ends.max())
        if not np.isfinite(ends).all():
            raise PreprocessingError(
                f"scale {self.scale:g}, mean {list(self.mean)} and std {list(self.std)} map 0..255 "
                f"to {low:g}..{high:g}; correct them"
            )
        if np.dtype(self.dtype).kind not in "iu":
            return
        limits = np.iinfo(np.dtype(self.dtype))
        flat = high - low < 16 and not self.takes_own_values
        if low < limits.min - 1 or high > limits.max + 1 or flat:
            raise PreprocessingError(
                f"the model's input is {self.dtype}, which cannot hold {low:.3g}..{high:.3g}; "
                "omit preprocessing=, or pass others with "
                "overrides={'scale': ..., 'mean': ..., 'std': ...}"
            )


@dataclass(frozen=True)
class Prepared:
    """An image in model space, with its geometry.

    Attributes
    ----------
    tensor
        float32 [1, C, h, w] in model space.
    geometry
        Where each pixel of the image lies in the model's input.
    warnings
        How its bit depth was converted, and the effect of an assumed resize mode.
    """

    tensor: npt.NDArray[np.float32]
    geometry: Geometry
    warnings: tuple[str, ...] = ()


def prepare(image: npt.NDArray[np.uint8] | Picture, spec: Preprocessing) -> Prepared:
    """Convert an image to model space.

    Parameters
    ----------
    image
        uint8 [H, W, 3] RGB, or an image of any depth.
    spec
        The preprocessing.

    Returns
    -------
    Prepared
        `tensor` is float32 [1, C, h, w] for every layout and dtype; `DeployedModel.run` converts
        it.

    Raises
    ------
    ImageError
        The image has another shape or dtype, channels or values that the model does not support, or
        the wrong size while resizing is off.
    """
    check_type("image", image, (Picture, np.ndarray), "uint8 [H, W, 3], RGB", ImageError)
    pixels = image.pixels if isinstance(image, Picture) else image
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(
            f"the image is {pixels.dtype} {list(pixels.shape)}; pass uint8 [H, W, 3], RGB"
        )
    if not isinstance(image, Picture):
        image = Picture(image, None, "")
    if image.tensor is not None:
        return _prepared_elsewhere(image.tensor, image, spec)
    picture, deep = image.size, image.deep
    place = placement(picture, spec)
    sides = (picture[0] / image.reduction, picture[1] / image.reduction)
    if deep is None or (deep.is_rgba_bytes and spec.channel_order != AS_IS):
        tensor, of_depth = _prepare_bytes(pixels, sides, place, spec), list[str]()
    else:
        tensor, of_depth = _prepare_deep(deep, sides, place, spec)
    scale = (place.resized[0] / picture[0], place.resized[1] / picture[1])
    offset = (float(place.top), float(place.left))
    geometry = Geometry(picture, spec.size, scale, offset, image.reduction)
    warnings = (*image.notes, *of_depth, *_resize_warnings(geometry, spec))
    return Prepared(tensor[None], geometry, warnings)


def _prepared_elsewhere(
    tensor: npt.NDArray[np.float32], image: Picture, spec: Preprocessing
) -> Prepared:
    """Return a tensor unchanged, with the geometry of its image."""
    if tensor.shape[2:] != spec.size:
        raise ImageError(
            f"the prepared image is {tensor.shape[2]} x {tensor.shape[3]}, but the model's input "
            f"is {spec.size[0]} x {spec.size[1]} (height x width)"
        )
    if image.as_drawn:
        return Prepared(tensor, Geometry(spec.size, spec.size, (1.0, 1.0), (0.0, 0.0)), ())
    place = placement(image.size, spec)
    scale = (place.resized[0] / image.size[0], place.resized[1] / image.size[1])
    geometry = Geometry(image.size, spec.size, scale, (float(place.top), float(place.left)))
    return Prepared(tensor, geometry, tuple(_resize_warnings(geometry, spec)))


def placement(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Return where an image is placed; assumed settings do not resize one of the input's size."""
    crops_by_guess = spec.resize in CROPPING and spec.is_guess("shorter_side")
    if picture == spec.size and (spec.is_guess("resize") or crops_by_guess):
        return _as_it_is(picture, spec)
    return RESIZES[spec.resize](picture, spec)


def _resize_warnings(geometry: Geometry, spec: Preprocessing) -> list[str]:
    """Describe how an assumed resize mode cropped, stretched, enlarged or padded an image."""
    fields = [name for name in ("resize", "shorter_side") if spec.is_guess(name)]
    if not fields or (spec.resize not in CROPPING and "resize" not in fields):
        return []
    high, wide = geometry.scale
    done = []
    if (cut := 1 - geometry.seen_share) >= _LEAST_CUT:
        done.append(f"{cut:.0%} of the image is cropped")
    if abs(math.log(wide / high)) > _LEAST_STRETCH:
        side = "width" if wide > high else "height"
        done.append(f"its {side} is stretched {max(wide / high, high / wide):.2f}x")
    if (larger := math.sqrt(high * wide)) > _LEAST_ENLARGEMENT:
        done.append(f"the image is enlarged {larger:.3g}x")
    if spec.resize in LETTERBOXES and (margin := 1 - geometry.filled_share) >= _LEAST_CUT:
        done.append(f"{margin:.0%} of the input is margin")
    if not done:
        return []
    what = f"the resize mode is assumed ({spec.resize})"
    if "resize" not in fields:
        what = f"the shorter side is assumed ({spec.shorter_side})"
    return [f"{what}: {' and '.join(done)}; pass overrides={{'{fields[0]}': ...}} to change it"]


def _prepare_bytes(
    pixels: npt.NDArray[np.uint8], sides: Sides, place: Placement, spec: Preprocessing
) -> npt.NDArray[np.float32]:
    """Convert 8-bit RGB [H, W, 3] to model space, [C, h, w]."""
    if spec.channel_order == AS_IS and spec.channels != 3:
        grey = spec.channels == 1 and np.ptp(pixels, axis=2).max() == 0
        if not grey:
            raise ImageError(_OTHER_CHANNELS.format("the image", 3, spec.channels))
        pixels = pixels[..., :1]
    placed = _place(pixels, sides, place, spec, 0, 255)
    return _to_model_space(CHANNEL_ORDERS[spec.channel_order].from_rgb(placed, 255), spec)


def _prepare_deep(
    deep: DeepValues, sides: Sides, place: Placement, spec: Preprocessing
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Convert an image of more than 8 bits to model space, [C, h, w], with a note on how."""
    low, high = deep.range
    own, white = spec.takes_own_values, deep.white
    if not own and white is None:
        raise ImageError(
            f"{deep.label} has {deep.depth} from {low:g} to {high:g}, and the value of white is "
            "unknown; pass an image of 8 or 16 bits, or of floats 0 to 1, or "
            "overrides={'depth': 'full'}, which applies the formula to its own values "
            f"({_formula(spec)})"
        )
    bottom, top = (low, high) if white is None else (0.0, white)
    channels = _model_channels(deep, spec, top)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        placed = _place(channels, sides, place, spec, bottom, top).astype(np.float64)
        planes = _formula_of(placed if own else placed * (255 / top), spec)
    if own:
        _check_fits(planes, deep, spec)
    return planes, _depth_notes(deep, spec)


def _model_channels(deep: DeepValues, spec: Preprocessing, white: float) -> npt.NDArray[Any]:
    """Return the values [H, W, C] of a deep image in the model's channels."""
    values, order = deep.values, CHANNEL_ORDERS[spec.channel_order]
    found = values.shape[2]
    as_they_are = spec.channel_order == AS_IS
    possible = (spec.channels,) if as_they_are else (1, 3, 4)
    if found not in possible:
        raise ImageError(_OTHER_CHANNELS.format(deep.label, found, spec.channels))
    if as_they_are or found == order.channels == 1:
        return values
    return order.from_rgb(to_rgb(values, white, deep.label), white)


def _check_fits(planes: npt.NDArray[np.float32], deep: DeepValues, spec: Preprocessing) -> None:
    """Raise if the image's own values exceed the range of the input."""
    dtype = np.dtype(spec.dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    least, most = max(float(limits.min), -_MOST_VALUE), min(float(limits.max), _MOST_VALUE)
    low, high = float(planes.min()), float(planes.max())
    if not (low >= least - 0.5 and high <= most + 0.5):  # nor NaN
        raise ImageError(
            f"{deep.label} becomes {low:g} to {high:g}, but the model's input is {dtype}, up to "
            f"{most:g}; pass overrides={{'scale': ..., 'mean': ...}}, or "
            "overrides={'depth': '8-bit'}"
        )


def _depth_notes(deep: DeepValues, spec: Preprocessing) -> list[str]:
    """Describe how an image's bit depth was converted."""
    if deep.white == 255:  # as if it had 8 bits
        return []
    low, high = deep.range
    has = f"{deep.label} has {deep.depth}, {low:g} to {high:g}"
    if spec.takes_own_values:
        how = "unchanged" if _is_identity(spec) else f"by {_formula(spec)}"
        return [f"{has}: its own values are used {how}"]
    dim = high < (deep.white or 0) / 8
    few = (
        ", of which it uses little; pass overrides={'depth': 'full'} to use its own values"
        if dim
        else ""
    )
    return [f"{has}: 0..{deep.white:g} is scaled to 0..255{few}"]


def unprepare(tensor: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Convert a tensor in model space back to an image: what the model sees.

    Parameters
    ----------
    tensor
        [1, C, h, w] or [C, h, w], model space.
    spec
        The preprocessing that produced it.

    Returns
    -------
    ndarray
        uint8 [h, w, 3] RGB, rounded and clipped.
    """
    values = tensor.reshape(tensor.shape[-3:]).transpose(1, 2, 0)
    pixels = (values * np.asarray(spec.std) + np.asarray(spec.mean)) / spec.scale
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(CHANNEL_ORDERS[spec.channel_order].to_rgb(pixels))


def mean_colour(
    spec: Preprocessing, colours: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return the neutral colour in model space, float32 [C, 1, 1].

    Zero if the preprocessing subtracts a mean, as in RISE's protocol; otherwise ImageNet's mean
    colour or, for values other than 0..255, the mean of `colours`, float32 [N, C] in model space.
    """
    if any(spec.mean):
        return np.zeros((spec.channels, 1, 1), np.float32)
    if colours is not None:
        return np.asarray(colours.mean(0)[:, None, None], np.float32)
    rgb = np.array(_MEAN_COLOUR, np.uint8)[None, None]
    return _to_model_space(CHANNEL_ORDERS[spec.channel_order].from_rgb(rgb, 255), spec)


def _to_model_space(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Convert pixels [h, w, C], in the model's channel order, to model space, [C, h, w]."""
    values = _values(np.arange(256), spec)
    planes = (values[channel].take(pixels[..., channel]) for channel in range(pixels.shape[2]))
    return np.stack(list(planes))


def _values(pixels: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Apply scale, mean and std to pixel values [n]; return [C, n]."""
    values = np.broadcast_to(pixels[:, None, None], (len(pixels), 1, spec.channels))
    return _formula_of(values, spec)[..., 0]


def _formula_of(pixels: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Apply scale, mean and std to values [h, w, C]; return model space, [C, h, w]."""
    # In float64, so that the result is the float32 nearest to the formula.
    mean, std = (np.asarray(each, np.float64) for each in (spec.mean, spec.std))
    with np.errstate(over="ignore", invalid="ignore"):  # callers check for finite values
        values = ((pixels * np.float64(spec.scale) - mean) / std).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _is_identity(spec: Preprocessing) -> bool:
    """Whether the formula leaves values unchanged."""
    return spec.scale == 1 and not any(spec.mean) and set(spec.std) == {1}


def _formula(spec: Preprocessing) -> str:
    """Write the formula with its numbers."""
    mean, std = (
        " ".join(f"{each:.6g}" for each in dict.fromkeys(values))
        for values in (spec.mean, spec.std)
    )
    return f"scale {spec.scale:.6g}, mean {mean}, std {std}"


def _place(
    image: npt.NDArray[Any],
    sides: Sides,
    place: Placement,
    spec: Preprocessing,
    low: float,
    high: float,
) -> npt.NDArray[Any]:
    """Resize the visible part of the image, and place it on its margin.

    `sides` are the image's in its own pixels, the last of which may count in part; `low` and `high`
    are black and white. Bytes remain bytes; other values become float32 if they are resized.
    """
    if place.resized == image.shape[:2] == spec.size:
        return image
    exact = image.dtype == np.uint8
    fill = low + place.fill * (high - low) / 255
    canvas = np.full((*spec.size, image.shape[2]), fill, np.uint8 if exact else np.float32)
    spans = [
        (max(0, start), min(want, start + has), start, side / has)
        for start, has, want, side in zip(
            (place.top, place.left), place.resized, spec.size, sides, strict=True
        )
    ]
    (y0, y1, top, tall), (x0, x1, left, wide) = spans
    box = ((y0 - top) * tall, (x0 - left) * wide, (y1 - top) * tall, (x1 - left) * wide)
    part = resample(image, (y1 - y0, x1 - x0), KERNELS[spec.interpolation], box)
    canvas[y0:y1, x0:x1] = np.clip(np.rint(part) if exact else part, low, high)
    return canvas


def check_sizes(spec: Preprocessing, limits: Limits | None = None, source: str = "") -> None:
    """Check that the sizes to which images are resized do not exceed the limits.

    Parameters
    ----------
    spec
        The preprocessing.
    limits
        `pixels` limits the resized image, `memory` the input's bytes; None: from the environment.
    source
        Where the sizes come from, for error messages.

    Raises
    ------
    PreprocessingError
        A limit is exceeded.
    """
    limits = Limits.of(limits)
    height, width = spec.size
    origin = f" ({source})" if source else ""
    resized = f"{height} x {width}"
    if spec.resize in CROPPING and spec.shorter_side is not None:
        high, wide = enlarged(spec.size, spec.shorter_side)
        height, width = max(high, height), max(wide, width)
        resized = f"a shorter side of {spec.shorter_side}"
    pixels, least = height * width, np.dtype(np.float32).itemsize * spec.channels
    if pixels > limits.pixels:
        raise PreprocessingError(
            f"images are resized to {resized}{origin}, {pixels:,} pixels or more, above the limit "
            f"of {limits.pixels:,}; correct it, or set {variable('pixels')} to allow more"
        )
    if (needed := math.prod(spec.size) * least) > limits.memory:
        raise PreprocessingError(
            f"the input is {spec.size[0]} x {spec.size[1]}{origin}, {needed:,} bytes, above the "
            f"limit of {limits.memory:,}; correct it, or set {variable('memory')} to allow more"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_side(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= MOST_SIDE


def _is_finite(value: Any) -> bool:
    """Return whether a value is a finite number."""
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_choice(name: str, value: str, choices: Sequence[str] | Mapping[str, Any]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise PreprocessingError(f"{name} is {value!r:.80}; choose from: {', '.join(choices)}")
