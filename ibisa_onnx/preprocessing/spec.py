"""From a picture to the model's input and back: one frozen spec, and the geometry it implies.

Model space is `(pixel * scale - mean) / std`, channels in the model's own order. Where a spec comes
from (arguments, files, metadata, guesses) is in `resolve.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError, PreprocessingError
from ibisa_onnx.models.signature import IMAGE_DTYPES, Layout
from ibisa_onnx.preprocessing.geometry import Geometry, Placement
from ibisa_onnx.preprocessing.resampling import KERNELS, resample


@dataclass(frozen=True)
class ChannelOrder:
    """How a model's channels are made from RGB pixels, and RGB from them (both [H, W, C])."""

    channels: int
    from_rgb: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    to_rgb: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def _to_grey(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return luminance as of Rec. 601, rounded as pictures are."""
    grey = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(grey)[..., None].astype(rgb.dtype)


def _with_opaque_alpha(rgb: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=2)


CHANNEL_ORDERS: Mapping[str, ChannelOrder] = MappingProxyType(
    {
        "RGB": ChannelOrder(3, lambda rgb: rgb, lambda x: x),
        "BGR": ChannelOrder(3, lambda rgb: rgb[..., ::-1], lambda x: x[..., ::-1]),
        "GRAY": ChannelOrder(1, _to_grey, lambda x: np.repeat(x, 3, axis=2)),
        "RGBA": ChannelOrder(4, _with_opaque_alpha, lambda x: x[..., :3]),
        "BGRA": ChannelOrder(
            4, lambda rgb: _with_opaque_alpha(rgb[..., ::-1]), lambda x: x[..., 2::-1]
        ),
    }
)


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


def _letterbox(picture: tuple[int, int], spec: Preprocessing) -> Placement:
    """Fit the whole picture in, its aspect kept, with grey (114) margins."""
    ratio = min(want / has for want, has in zip(spec.size, picture, strict=True))
    height, width = (max(1, round(side * ratio)) for side in picture)
    return _centred((height, width), spec.size, 114)


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
        cropped), "letterbox" (aspect kept, grey margins) or "none" (the picture must fit).
    shorter_side
        For "shortest" and "stretch-crop"; None: the shorter side of `size`.
    interpolation
        "nearest", "box", "bilinear", "bicubic" or "lanczos", antialiased as in Pillow.
    channel_order
        "RGB", "BGR", "GRAY", "RGBA" or "BGRA" (alpha is opaque).
    scale, mean, std
        Model space is `(pixel * scale - mean) / std`, pixels 0..255; mean and std hold one value or
        one for each channel, in the model's order.
    layout, dtype
        Of the model's input.

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

    def __post_init__(self) -> None:
        _check_choice("resize", self.resize, RESIZES)
        _check_choice("interpolation", self.interpolation, KERNELS)
        _check_choice("channel order", self.channel_order, CHANNEL_ORDERS)
        _check_choice("layout", self.layout, tuple(Layout))
        _check_choice("dtype", self.dtype, sorted(IMAGE_DTYPES))
        if len(self.size) != 2 or min(self.size) < 1:
            raise PreprocessingError(f"size is {self.size}; give a height and a width in pixels")
        if self.shorter_side is not None and self.shorter_side < 1:
            raise PreprocessingError(f"shorter side is {self.shorter_side}; give 1 pixel or more")
        if not np.isfinite(self.scale) or self.scale == 0:
            raise PreprocessingError(f"scale is {self.scale}; give a number other than 0")
        self._check_channels("mean", self.mean)
        self._check_channels("std", self.std)
        if 0 in self.std:
            raise PreprocessingError(f"std is {list(self.std)}; it is divided by and cannot be 0")
        self._check_integers()

    @property
    def channels(self) -> int:
        """How many channels the model takes."""
        return CHANNEL_ORDERS[self.channel_order].channels

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Build a spec from what `to_dict` returned."""
        unknown = set(values) - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            raise PreprocessingError(f"there is no preprocessing field {min(unknown)!r}")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)

    def _check_channels(self, name: str, values: Sequence[float]) -> None:
        """Raise where there is not one value, nor one for each channel."""
        if len(values) not in (1, self.channels) or not np.isfinite(values).all():
            raise PreprocessingError(
                f"{name} is {list(values)}; {self.channel_order} takes 1 or {self.channels} numbers"
            )

    def _check_integers(self) -> None:
        """Raise where an integer input cannot hold what the picture becomes."""
        if np.dtype(self.dtype).kind not in "iu":
            return
        limits = np.iinfo(np.dtype(self.dtype))
        ends = _values(np.array([0, 255]), self)
        low, high = float(ends.min()), float(ends.max())
        if low < limits.min - 1 or high > limits.max + 1 or high - low < 16:
            raise PreprocessingError(
                f"the model takes {self.dtype}, which cannot hold values {low:.3g}..{high:.3g}; "
                "leave preprocessing= out, or give another scale=, mean= and std="
            )


@dataclass(frozen=True)
class Prepared:
    """A picture ready for the model: float32 [1, C, h, w] in model space, and how it got there."""

    tensor: npt.NDArray[np.float32]
    geometry: Geometry


def prepare(image: npt.NDArray[np.uint8], spec: Preprocessing) -> Prepared:
    """Bring a picture to model space.

    Parameters
    ----------
    image
        uint8 [H, W, 3] RGB.
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
        The image has another shape or dtype, or does not fit where it must not be resized.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"the image is {image.dtype} {list(image.shape)}; give uint8 [H, W, 3], RGB"
        )
    picture = (image.shape[0], image.shape[1])
    place = RESIZES[spec.resize](picture, spec)
    pixels = _place(image, place, spec)
    tensor = _to_model_space(CHANNEL_ORDERS[spec.channel_order].from_rgb(pixels), spec)
    scale = (place.resized[0] / picture[0], place.resized[1] / picture[1])
    geometry = Geometry(picture, spec.size, scale, (float(place.top), float(place.left)))
    return Prepared(tensor[None], geometry)


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


def mean_colour(spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Return what stands for nothing in model space: the mean colour, float32 [C, 1, 1].

    That is zero where the preprocessing subtracts a mean, as in RISE's protocol; else the usual
    mean of ImageNet's photographs.
    """
    if any(spec.mean):
        return np.zeros((spec.channels, 1, 1), np.float32)
    rgb = np.array(_MEAN_COLOUR, np.uint8)[None, None]
    return _to_model_space(CHANNEL_ORDERS[spec.channel_order].from_rgb(rgb), spec)


def _to_model_space(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Return [C, h, w] in model space from pixels [h, w, C] in the model's channel order."""
    values = _values(np.arange(256), spec)
    planes = (values[channel].take(pixels[..., channel]) for channel in range(pixels.shape[2]))
    return np.stack(list(planes))


def _values(pixels: npt.NDArray[Any], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """Apply scale, mean and std: what pixel values [n] are in each channel, [C, n]."""
    # In float64, so that the result is the float32 nearest to the formula.
    mean, std = (np.reshape(each, (-1, 1)).astype(np.float64) for each in (spec.mean, spec.std))
    values = (pixels * np.float64(spec.scale) - mean) / std
    return np.broadcast_to(values, (spec.channels, len(pixels))).astype(np.float32)


def _place(
    image: npt.NDArray[np.uint8], place: Placement, spec: Preprocessing
) -> npt.NDArray[np.uint8]:
    """Resize the part of the picture that the model sees, and lay it on its margin."""
    if place.resized == image.shape[:2] == spec.size:
        return image
    canvas = np.full((*spec.size, 3), place.fill, np.uint8)
    spans = [
        (max(0, start), min(want, start + has), start, side / has)
        for start, has, want, side in zip(
            (place.top, place.left), place.resized, spec.size, image.shape[:2], strict=True
        )
    ]
    (y0, y1, top, high), (x0, x1, left, wide) = spans
    box = ((y0 - top) * high, (x0 - left) * wide, (y1 - top) * high, (x1 - left) * wide)
    part = resample(image, (y1 - y0, x1 - x0), KERNELS[spec.interpolation], box)
    canvas[y0:y1, x0:x1] = np.clip(np.rint(part), 0, 255)
    return canvas


def _check_choice(name: str, value: str, choices: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in choices:
        raise PreprocessingError(f"{name} is {value!r}; choose from: {', '.join(choices)}")
