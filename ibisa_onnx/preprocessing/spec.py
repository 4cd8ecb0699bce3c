"""From a picture to the model's input and back: one frozen spec, and the geometry it implies.

Model space is `(pixel * scale - mean) / std`, channels in the model's own order. Pixels are 0..255,
or the picture's own values where the spec is made for those (`Preprocessing.takes_own_values`).
Where a spec comes from (arguments, files, metadata, guesses) is in `resolve.py`.
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

from ibisa_onnx.errors import ImageError, PreprocessingError
from ibisa_onnx.io.images import DeepValues, Picture
from ibisa_onnx.io.pixels import MAX_CHANNELS, to_rgb
from ibisa_onnx.limits import Limits, variable
from ibisa_onnx.models.signature import IMAGE_DTYPES, Layout
from ibisa_onnx.preprocessing.geometry import Geometry, Placement
from ibisa_onnx.preprocessing.resampling import KERNELS, resample


@dataclass(frozen=True)
class ChannelOrder:
    """How a model's channels are made from RGB pixels, and RGB from them (both [H, W, C]).

    `channels` None: any number, which the picture itself must have. `from_rgb` takes the value of
    white, too.
    """

    channels: int | None
    from_rgb: Callable[[npt.NDArray[Any], float], npt.NDArray[Any]]
    to_rgb: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _to_grey(rgb: npt.NDArray[Any], white: float) -> npt.NDArray[Any]:
    """Return luminance as of Rec. 601, integers rounded as pictures are."""
    weights = np.array([0.299, 0.587, 0.114])
    if rgb.dtype.kind == "f":
        return np.asarray(rgb @ weights, rgb.dtype)[..., None]
    weights = weights.astype(np.float32) if rgb.dtype == np.uint8 else weights
    grey = np.rint(rgb.astype(weights.dtype) @ weights)
    return np.asarray(grey[..., None], rgb.dtype)


def _with_opaque_alpha(rgb: npt.NDArray[Any], white: float) -> npt.NDArray[Any]:
    return np.concatenate([rgb, np.full_like(rgb[..., :1], white)], axis=2)


def _first_colours(channels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Show channels that are no colours: the first three as RGB, of two the first as grey."""
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
"""Of a picture's side in pixels, whoever asks for it; how much may be made depends on `Limits`."""
_LEAST_SPAN = 0.5  # of 0..255 in model space; the narrowest usual one is 1
_LEAST_CUT, _LEAST_STRETCH, _LEAST_ENLARGEMENT = 0.005, 0.02, 1.02  # worth a word
_MOST_VALUE = 1e18  # of an input: what comes after squares and adds up in float32
_OTHER_CHANNELS = (
    "{} has {} channel(s) and the model takes {}; give a TIFF or .npy file [H, W, C] of as many"
)
PAD_VALUE = 114
"""The grey that most letterboxes have."""
LETTERBOXES = ("letterbox", "letterbox-corner")
"""Those that look at `pad_value`."""
_MEAN_COLOUR = (124, 116, 104)  # of ImageNet's photographs, RGB


@dataclass(frozen=True)
class Preset:
    """A usual way from pixels to model space: `(pixel * scale - mean) / std`."""

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
    """Put the centre of the resized picture on the centre of the input."""
    # Rounded as torchvision's CenterCrop does: half a pixel goes to the even side.
    top, left = (
        -round((has - want) / 2) if has >= want else (want - has) // 2
        for has, want in zip(resized, size, strict=True)
    )
    return Placement(resized, top, left, fill)


def _shortest(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Bring the shorter side to `shorter_side`, crop the centre (or pad it with black)."""
    target, short = spec.shorter_side or min(spec.size), min(picture)
    height, width = (
        target if side == short else max(1, target * side // short) for side in picture
    )
    return _centred((height, width), spec.size, 0)


def _stretch(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Bring the whole picture to the input's size, whatever its aspect."""
    return Placement(spec.size, 0, 0, 0)


def enlarged(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """Return the input's height and width, both enlarged alike to a shorter side."""
    height, width = (round(side * shorter_side / min(size)) for side in size)
    return height, width


def _stretch_crop(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Stretch the whole picture to more than the input's size, and crop the centre."""
    target = spec.shorter_side or min(spec.size)
    return _centred(enlarged(spec.size, target), spec.size, 0)


def _fitted(picture: tuple[int, int], spec: Preprocessing) -> tuple[float, float]:
    """Return the height and width that a picture has where it fits in, its aspect kept."""
    ratio = min(want / has for want, has in zip(spec.size, picture, strict=True))
    return picture[0] * ratio, picture[1] * ratio


def _letterbox(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Fit the whole picture into the middle, its aspect kept, with margins around it."""
    height, width = (max(1, round(side)) for side in _fitted(picture, spec))
    return _centred((height, width), spec.size, spec.pad_value)


def _letterbox_corner(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Fit the whole picture into the top left corner, its sides rounded down, as YOLOX does."""
    height, width = (max(1, int(side + 1e-6)) for side in _fitted(picture, spec))
    return Placement((height, width), 0, 0, spec.pad_value)


def _as_it_is(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Take the picture as it is; it must have the input's size."""
    if picture != spec.size:
        raise ImageError(
            f"the picture is {picture[0]} x {picture[1]} (height x width) and the model takes "
            f"{spec.size[0]} x {spec.size[1]}; resize it, or give resize=shortest"
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
"""Those that look at `shorter_side`."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input.

    Attributes
    ----------
    size
        Height and width of the model's input.
    resize
        "shortest" (shorter side to `shorter_side`, then the centre is cropped), "stretch",
        "stretch-crop" (the same to `shorter_side` and the aspect of `size`, then the centre is
        cropped), "letterbox" (aspect kept, margins around it), "letterbox-corner" (the same in the
        top left corner) or "none" (the picture must fit).
    shorter_side
        For "shortest" and "stretch-crop"; None: the shorter side of `size`.
    interpolation
        "nearest", "box", "bilinear", "bicubic" or "lanczos", antialiased as in Pillow.
    channel_order
        "RGB", "BGR", "GRAY", "RGBA" or "BGRA" (alpha is opaque), or "AS-IS": the picture's own
        channels, as many as the model takes.
    scale, mean, std
        Model space is `(pixel * scale - mean) / std`, pixels 0..255; mean and std hold one value or
        one for each channel, in the model's order.
    layout, dtype
        Of the model's input.
    channels
        How many it takes: as the channel order says, but for "AS-IS", where it is 1 to 16.
    depth
        What deeper pictures than 8 bits are to the formula: "8-bit", brought to 0..255, or "full",
        their own values. None: see `takes_own_values`.
    pad_value
        Of the margins of a letterbox, 0..255.
    guessed
        The fields that nobody said. A picture that has the input's size is not resized by a guess.

    Raises
    ------
    PreprocessingError
        A value is impossible, or two contradict each other.
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
            raise PreprocessingError(
                f"size is {self.size!r:.80}; give a height and a width in pixels"
            )
        if self.shorter_side is not None and not _is_side(self.shorter_side):
            raise PreprocessingError(
                f"shorter side is {self.shorter_side!r:.80}; give 1 pixel or more"
            )
        if not _is_whole(self.pad_value) or not 0 <= self.pad_value <= 255:
            raise PreprocessingError(
                f"pad value is {self.pad_value!r:.80}; give a number, 0 to 255"
            )
        if not _is_finite(self.scale) or self.scale == 0:
            raise PreprocessingError(f"scale is {self.scale!r:.80}; give a number other than 0")
        self._check_channels("mean", self.mean)
        self._check_channels("std", self.std)
        if 0 in self.std:
            raise PreprocessingError(f"std is {list(self.std)}; it is divided by and cannot be 0")
        self._check_range()

    @property
    def takes_own_values(self) -> bool:
        """Whether deeper pictures than 8 bits go into the formula with their own values.

        Where `depth` does not say so, they do where the formula leaves values as they are, or would
        make next to nothing of 0..255; never for inputs of 8 bits.
        """
        if self.depth is not None or np.dtype(self.dtype).itemsize == 1:
            return self.depth == "full"
        largest = max(abs(self.scale / each) for each in self.std)
        return _is_identity(self) or 255 * largest < _LEAST_SPAN

    def is_guess(self, *fields: str) -> bool:
        """Whether nobody said one of these fields."""
        return not set(fields).isdisjoint(self.guessed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON; without what follows from the rest."""
        values = dataclasses.asdict(self)
        if self.channel_order != AS_IS:
            del values["channels"]
        for field, usual in (("depth", None), ("guessed", ()), ("pad_value", PAD_VALUE)):
            if values[field] == usual:
                del values[field]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Build a spec from what `to_dict` returned; PreprocessingError where that makes none."""
        unknown = set(values) - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            raise PreprocessingError(f"there is no preprocessing field {min(unknown)!r:.80}")
        if "size" not in values:
            raise PreprocessingError("preprocessing has no size; give a height and a width")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)

    def _count_channels(self) -> int:
        """Return how many channels there are; raise where neither order nor number tells."""
        count = CHANNEL_ORDERS[self.channel_order].channels or self.channels
        if not _is_whole(count) or not 1 <= count <= MAX_CHANNELS:
            raise PreprocessingError(
                f"channels is {self.channels!r:.80}; {self.channel_order} takes 1 to {MAX_CHANNELS}"
            )
        return count

    def _check_channels(self, name: str, values: Sequence[float]) -> None:
        """Raise where there is not one value, nor one for each channel."""
        given = values if isinstance(values, tuple | list | np.ndarray) else ()
        if len(given) not in (1, self.channels) or not all(map(_is_finite, given)):
            raise PreprocessingError(
                f"{name} is {list(given) or values!r:.200}; {self.channel_order} takes 1 or "
                f"{self.channels} numbers"
            )

    def _check_range(self) -> None:
        """Raise where the input cannot hold what the picture becomes."""
        ends = _values(np.array([0, 255]), self)
        low, high = float(ends.min()), float(ends.max())
        if not np.isfinite(ends).all():
            raise PreprocessingError(
                f"scale {self.scale:g}, mean {list(self.mean)} and std {list(self.std)} make "
                f"{low:g} to {high:g} of 0..255; correct them"
            )
        if np.dtype(self.dtype).kind not in "iu":
            return
        limits = np.iinfo(np.dtype(self.dtype))
        flat = high - low < 16 and not self.takes_own_values
        if low < limits.min - 1 or high > limits.max + 1 or flat:
            raise PreprocessingError(
                f"the model takes {self.dtype}, which cannot hold values {low:.3g}..{high:.3g}; "
                "leave preprocessing= out, or give another scale=, mean= and std="
            )


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the model: float32 [1, C, h, w] in model space, and how it got there.

    `warnings` say what became of its depth, and what a guessed resize did to it.
    """

    tensor: npt.NDArray[np.float32]
    geometry: Geometry
    warnings: tuple[str, ...] = ()


def prepare(image: npt.NDArray[np.uint8] | Picture, spec: Preprocessing) -> Prepared:
    """Bring a picture to model space.

    Parameters
    ----------
    image
        uint8 [H, W, 3] RGB, or a picture of any depth.
    spec
        How.

    Returns
    -------
    Prepared
        `tensor` is float32 [1, C, h, w] whatever the model's layout and dtype; `DeployedModel.run`
        converts it.

    Raises
    ------
    ImageError
        The image has another shape or dtype, or channels or values that the model cannot take, or
        does not fit where it must not be resized.
    """
    pixels = image.pixels if isinstance(image, Picture) else image
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ImageError(
            f"the image is {pixels.dtype} {list(pixels.shape)}; give uint8 [H, W, 3], RGB"
        )
    if not isinstance(image, Picture):
        image = Picture(image, None, "")
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


def placement(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Place a picture; one that has the input's size is not resized by a guess."""
    crops_by_guess = spec.resize in CROPPING and spec.is_guess("shorter_side")
    if picture == spec.size and (spec.is_guess("resize") or crops_by_guess):
        return _as_it_is(picture, spec)
    return RESIZES[spec.resize](picture, spec)


def _resize_warnings(geometry: Geometry, spec: Preprocessing) -> list[str]:
    """Say what a guessed resize did to a picture: cut, stretched, enlarged or padded it."""
    fields = [name for name in ("resize", "shorter_side") if spec.is_guess(name)]
    if not fields or (spec.resize not in CROPPING and "resize" not in fields):
        return []
    high, wide = geometry.scale
    done = []
    if (cut := 1 - geometry.seen_share) >= _LEAST_CUT:
        done.append(f"{cut:.0%} of the picture is cut away")
    if abs(math.log(wide / high)) > _LEAST_STRETCH:
        side = "width" if wide > high else "height"
        done.append(f"its {side} is stretched {max(wide / high, high / wide):.2f} times")
    if (larger := math.sqrt(high * wide)) > _LEAST_ENLARGEMENT:
        done.append(f"it is enlarged {larger:.3g} times")
    if spec.resize in LETTERBOXES and (margin := 1 - geometry.filled_share) >= _LEAST_CUT:
        done.append(f"{margin:.0%} of the input is margin")
    if not done:
        return []
    what = "the resize is guessed" if "resize" in fields else "the shorter side is guessed"
    return [f"{what} ({spec.resize}): {' and '.join(done)}; give {fields[0]}="]


def _prepare_bytes(
    pixels: npt.NDArray[np.uint8], sides: Sides, place: Placement, spec: Preprocessing
) -> npt.NDArray[np.float32]:
    """Bring 8-bit RGB [H, W, 3] to model space, [C, h, w]."""
    if spec.channel_order == AS_IS and spec.channels != 3:
        grey = spec.channels == 1 and np.ptp(pixels, axis=2).max() == 0
        if not grey:
            raise ImageError(_OTHER_CHANNELS.format("the picture", 3, spec.channels))
        pixels = pixels[..., :1]
    placed = _place(pixels, sides, place, spec, 0, 255)
    return _to_model_space(CHANNEL_ORDERS[spec.channel_order].from_rgb(placed, 255), spec)


def _prepare_deep(
    deep: DeepValues, sides: Sides, place: Placement, spec: Preprocessing
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Bring a deep picture to model space, [C, h, w]; with a line that says what was done."""
    low, high = deep.range
    own, white = spec.takes_own_values, deep.white
    if not own and white is None:
        raise ImageError(
            f"{deep.label} has {deep.depth} from {low:g} to {high:g}, and nothing says which value "
            "is white; give a picture of 8 or 16 bits, or of floats 0 to 1, or depth=full, which "
            f"puts its values into the formula as they are ({_formula(spec)})"
        )
    bottom, top = (low, high) if white is None else (0.0, white)
    channels = _model_channels(deep, spec, top)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused
        placed = _place(channels, sides, place, spec, bottom, top).astype(np.float64)
        planes = _formula_of(placed if own else placed * (255 / top), spec)
    if own:
        _check_fits(planes, deep, spec)
    return planes, _depth_notes(deep, spec)


def _model_channels(deep: DeepValues, spec: Preprocessing, white: float) -> npt.NDArray[Any]:
    """Return a deep picture's values [H, W, C] in the model's channels."""
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
    """Raise where own values are beyond what the input holds."""
    dtype = np.dtype(spec.dtype)
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    least, most = max(float(limits.min), -_MOST_VALUE), min(float(limits.max), _MOST_VALUE)
    low, high = float(planes.min()), float(planes.max())
    if not (low >= least - 0.5 and high <= most + 0.5):  # nor NaN
        raise ImageError(
            f"{deep.label} becomes {low:g} to {high:g}, and the model takes {dtype}, up to "
            f"{most:g}; give scale= or mean=, or depth=8-bit"
        )


def _depth_notes(deep: DeepValues, spec: Preprocessing) -> list[str]:
    """Say in a line what became of a picture's depth."""
    if deep.white == 255:  # as if it had 8 bits
        return []
    low, high = deep.range
    has = f"{deep.label} has {deep.depth}, {low:g} to {high:g}"
    if spec.takes_own_values:
        how = "as they are" if _is_identity(spec) else f"by {_formula(spec)}"
        return [f"{has}: its values go into the model {how}"]
    dim = high < (deep.white or 0) / 8
    few = ", and it uses little of that: depth=full takes its own values" if dim else ""
    return [f"{has}: 0..{deep.white:g} is taken as 0..255 is{few}"]


def unprepare(tensor: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """Show what the model sees.

    Parameters
    ----------
    tensor
        [1, C, h, w] or [C, h, w], model space.
    spec
        The spec that brought it there.

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
    """Return what stands for nothing in model space: the mean colour, float32 [C, 1, 1].

    That is zero where the preprocessing subtracts a mean, as in RISE's protocol; else the usual
    mean of ImageNet's photographs, or, where values are no colours of 0..255, that of `colours`,
    float32 [N, C] in model space.
    """
    if any(spec.mean):
        return np.zeros((spec.channels, 1, 1), np.float32)
    if colours is not None:
        return np.asarray(colours.mean(0)[:, None, None], np.float32)
    rgb = np.array(_MEAN_COLOUR, np.uint8)[None, None]
    return _to_model_space(CHANNEL_ORDERS[spec.channel_order].from_rgb(rgb, 255), spec)


def _to_model_space(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Return [C, h, w] in model space from pixels [h, w, C] in the model's channel order."""
    values = _values(np.arange(256), spec)
    planes = (values[channel].take(pixels[..., channel]) for channel in range(pixels.shape[2]))
    return np.stack(list(planes))


def _values(pixels: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Apply scale, mean and std: what pixel values [n] are in each channel, [C, n]."""
    values = np.broadcast_to(pixels[:, None, None], (len(pixels), 1, spec.channels))
    return _formula_of(values, spec)[..., 0]


def _formula_of(pixels: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Apply scale, mean and std to values [h, w, C]: model space, [C, h, w]."""
    # In float64, so that the result is the float32 nearest to the formula.
    mean, std = (np.asarray(each, np.float64) for each in (spec.mean, spec.std))
    with np.errstate(over="ignore", invalid="ignore"):  # who needs finite ones looks for them
        values = ((pixels * np.float64(spec.scale) - mean) / std).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _is_identity(spec: Preprocessing) -> bool:
    """Whether the formula leaves values as they are."""
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
    """Resize the part of the picture that the model sees, and lay it on its margin.

    `sides` are the picture's in its pixels, of which the last may count in part; `low` and `high`
    are its black and white. Bytes stay bytes; other values become float32 where they are resized.
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
    """See that what pictures are resized to may be allocated.

    Parameters
    ----------
    spec
        How pictures are brought to the model.
    limits
        How many pixels they may have, and how many bytes as the model's input; None: as the
        environment says.
    source
        Where the sizes come from, in words.

    Raises
    ------
    PreprocessingError
        They are more.
    """
    limits = limits or Limits.from_environment()
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
            f"pictures are resized to {resized}{origin}, {pixels:,} pixels or more, and "
            f"{limits.pixels:,} are allowed; correct it, or set {variable('pixels')}"
        )
    if (needed := math.prod(spec.size) * least) > limits.memory:
        raise PreprocessingError(
            f"the input is {spec.size[0]} x {spec.size[1]}{origin}, {needed:,} bytes, and "
            f"{limits.memory:,} are allowed; correct it, or set {variable('memory')}"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_side(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= MOST_SIDE


def _is_finite(value: Any) -> bool:
    """Tell whether a value is a number that a float holds."""
    real = isinstance(value, int | float | np.integer | np.floating)
    return real and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _check_choice(name: str, value: str, choices: Sequence[str] | Mapping[str, Any]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise PreprocessingError(f"{name} is {value!r:.80}; choose from: {', '.join(choices)}")
