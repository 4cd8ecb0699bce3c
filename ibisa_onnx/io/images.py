"""Images from paths, bytes and arrays: their own values, and 8-bit RGB for drawing.

Images are shown as a viewer shows them: rotated by their EXIF orientation, with transparent parts
over white. Values that do not fit into 8 bits are stored beside that.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError
from ibisa_onnx.io.decoding import Decoded, decode
from ibisa_onnx.io.files import Buffer, name_of, read_file
from ibisa_onnx.io.headers import check_pixels
from ibisa_onnx.io.pixels import as_channels, drawn, find_white, to_8_bits, to_rgb
from ibisa_onnx.io.reduction import Reduction
from ibisa_onnx.limits import Limits, variable


class PilImage(Protocol):
    """The parts of `PIL.Image.Image` that are used."""

    @property
    def mode(self) -> str:
        """How its pixels are stored."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    def convert(self, mode: str, /) -> Any:
        """Return a copy in another mode."""


@dataclass(frozen=True)
class DeepValues:
    """Values of an image that 8-bit RGB cannot hold: more bits, or other channels.

    Attributes
    ----------
    values
        [H, W, C], C from 1 to 16, finite, in the image's own dtype.
    white
        The value of full brightness: 255, 65535, or 1; None if unknown.
    label
        Name of the image in messages.
    """

    values: npt.NDArray[Any]
    white: float | None
    label: str

    @property
    def depth(self) -> str:
        """Its bit depth as text: "16 bits", "float32 pixels"."""
        dtype = self.values.dtype
        return f"{8 * dtype.itemsize} bits" if dtype.kind == "u" else f"{dtype} pixels"

    @property
    def is_rgba_bytes(self) -> bool:
        """Whether it is 8-bit RGB with transparency."""
        return self.values.dtype == np.uint8 and self.values.shape[2] == 4

    @property
    def range(self) -> tuple[float, float]:
        """Its smallest and largest value."""
        return float(self.values.min()), float(self.values.max())


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image that a service has prepared for the model itself.

    The tensor that was served is the one explained; nothing is resized or normalised again.

    Parameters
    ----------
    tensor
        float32 [C, H, W] or [1, C, H, W] in model space: the model's input in NCHW, as floats.
    pixels
        uint8 [H, W, 3] RGB: the original image, to which maps are restored by the explainer's
        preprocessing. None: the map has the tensor's size, and the tensor itself is drawn.

    Raises
    ------
    ImageError
        The tensor or the pixels have another shape or dtype, or are not finite.
    """

    tensor: npt.NDArray[np.float32]
    pixels: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        tensor, pixels = self.tensor, self.pixels
        found = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, np.ndarray) else tensor
        if not isinstance(tensor, np.ndarray) or tensor.dtype != np.float32:
            raise ImageError(f"tensor is {found!s:.80}; pass float32 [1, C, H, W] in model space")
        if tensor.ndim not in (3, 4) or (tensor.ndim == 4 and len(tensor) != 1) or not tensor.size:
            raise ImageError(f"tensor is {found}; pass one image, float32 [1, C, H, W]")
        if not np.isfinite(tensor).all():
            raise ImageError("tensor contains NaN or infinite values")
        if pixels is not None and not (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.ndim == 3
            and pixels.shape[2] == 3
            and pixels.size
        ):
            raise ImageError("pixels must be uint8 [H, W, 3], RGB, or None")

    def picture(self) -> Picture:
        """Return the image as a `Picture` with its tensor."""
        tensor = self.tensor.reshape(1, *self.tensor.shape[-3:]).copy()
        pixels = _drawn_tensor(tensor[0]) if self.pixels is None else self.pixels.copy()
        return Picture(
            pixels, None, image_sha256(tensor), tensor=tensor, as_drawn=self.pixels is None
        )


@dataclass(frozen=True)
class Picture:
    """An image and where it came from.

    Attributes
    ----------
    pixels
        uint8 [H, W, 3], RGB, 0..255: as it is drawn.
    name
        The file's name without its folder; None for bytes and arrays.
    sha256
        SHA-256 of the file's bytes, or of an array's dtype, shape and values.
    deep
        Its own values; None if `pixels` has all of them.
    reduced_from
        Height and width of the image in the file if it was reduced on reading, else None.
    notes
        What a user must know about how it was read.
    tensor
        float32 [1, C, h, w]: the image in model space if it was prepared elsewhere, else None.
    as_drawn
        Whether `pixels` are those of `tensor`.
    """

    pixels: npt.NDArray[np.uint8]
    name: str | None
    sha256: str
    deep: DeepValues | None = None
    reduced_from: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    tensor: npt.NDArray[np.float32] | None = None
    as_drawn: bool = False

    @property
    def reduction(self) -> int:
        """Factor by which both sides were reduced on reading: 1, 2, 4 or 8."""
        return round(max(self.size) / max(_size(self.pixels)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the original image, to which all coordinates refer."""
        return self.reduced_from or _size(self.pixels)


Source = str | os.PathLike[str] | Buffer | npt.NDArray[Any] | PilImage | PreparedImage | Picture
"""A path, a file's bytes in any buffer, an array, a PIL image (used as it is in memory), a
`PreparedImage` or a `Picture`."""

_ARRAY = "the array"


def read_picture(
    source: Source, limits: Limits | None = None, reduction: Reduction | None = None
) -> Picture:
    """Read an image, with its own values and its hash.

    Parameters
    ----------
    source
        As for `read_image`. TIFF and .npy files may have up to 16 channels, and integers and floats
        of any range; of a TIFF file the first page is read.
    limits
        Limits on file size and pixels; None: from the environment.
    reduction
        Returns the factor by which a file's image is reduced, for its height and width; None: not
        reduced. Arrays and PIL images are never reduced.

    Returns
    -------
    Picture
        The image.

    Raises
    ------
    ImageError
        The file does not exist, is not an image, or is too large, or the array has another shape or
        dtype.
    MissingDependencyError
        It is a TIFF file that requires `tifffile`, which is not installed.
    """
    limits = Limits.of(limits)
    source = _as_array(source, limits)
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        if source.ndim > 1 and source.size:
            check_pixels(source.shape, _ARRAY, limits)
        values = as_channels(source.copy(), _ARRAY)  # its owner may modify it
        if values.dtype.kind == "f":
            values = _of_fractions(values, _ARRAY)
        return _picture(Decoded(values, _size(values)), _ARRAY, None, image_sha256(source))
    data, label = _read_bytes(source, limits)
    name = Path(source).name if isinstance(source, str | os.PathLike) else None
    return _picture(
        decode(data, label, limits, reduction), label, name, hashlib.sha256(data).hexdigest()
    )


def read_image(source: Source, limits: Limits | None = None) -> npt.NDArray[np.uint8]:
    """Read an image as 8-bit RGB, without contrast stretching.

    Parameters
    ----------
    source
        The path or bytes of a JPEG, PNG, BMP, WebP, GIF, TIFF or .npy file, a PIL image, or an
        array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA): integers 0..255, uint16
        0..65535, floats 0..1 or booleans.
    limits
        Limits on file size and pixels; None: from the environment.

    Returns
    -------
    ndarray
        uint8 [H, W, 3], RGB, 0..255.

    Raises
    ------
    ImageError
        The file does not exist, is not an image, or is too large, or the array has another shape or
        dtype.
    """
    picture = read_picture(source, limits)
    if (deep := picture.deep) is None:
        return picture.pixels
    if deep.white is None:
        raise ImageError(_beyond(deep.values, deep.label))
    return to_rgb(to_8_bits(deep.values, deep.white), 255, deep.label)


def _picture(read: Decoded, label: str, name: str | None, sha256: str) -> Picture:
    """Build a `Picture` from decoded values; values that fit are stored in 8 bits."""
    values = as_channels(read.values, label)
    if values.dtype.kind == "b":
        values = to_8_bits(values, 1)
    white = 255.0 if label == _ARRAY and values.dtype.kind == "f" else find_white(values)
    if white == 255 and values.dtype.kind in "iu" and values.dtype != np.uint8:
        values = to_8_bits(values, white)
    plain = values.dtype == np.uint8 and values.shape[2] in (1, 3)
    picture = Picture(
        to_rgb(values, 255, label) if plain else drawn(values, white),
        name,
        sha256,
        None if plain else DeepValues(values, white, label),
        None if read.size == _size(values) else read.size,
        read.notes,
    )
    if picture.reduction == 1:
        return picture
    (height, width), factor = read.size, picture.reduction
    note = (
        f"{label} is {width} x {height} and was read at 1/{factor} of its size, which is the map's "
        "size too; coordinates are in pixels of the file"
    )
    return replace(picture, notes=(*read.notes, note))


def _size(values: npt.NDArray[Any]) -> tuple[int, int]:
    height, width = values.shape[:2]
    return height, width


def _of_fractions(values: npt.NDArray[Any], label: str) -> npt.NDArray[Any]:
    """Scale floats 0..1 to 0..255; to bytes if they are 8-bit values divided by 255."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise ImageError(_beyond(values, label))
    rounding = 255 * float(np.finfo(values.dtype).eps)
    scaled = values.astype(np.promote_types(values.dtype, np.float32)) * 255
    nearest = np.rint(scaled)
    return nearest.astype(np.uint8) if np.abs(scaled - nearest).max() <= rounding else scaled


def _beyond(values: npt.NDArray[Any], label: str) -> str:
    """Return an error message for values whose white is unknown."""
    most = 1 if values.dtype.kind == "f" else 255
    return (
        f"{label} has {values.dtype} pixels from {values.min():g} to {values.max():g}; "
        f"pass 0 to {most}, or uint8"
    )


def image_sha256(source: Source, limits: Limits | None = None) -> str:
    """Hash an image: the file's bytes, or an array's dtype, shape and values."""
    limits = Limits.of(limits)
    source = _as_array(source, limits)
    if isinstance(source, Picture):
        return source.sha256
    if isinstance(source, np.ndarray):
        header = f"{source.dtype} {source.shape} ".encode()
        return hashlib.sha256(header + np.ascontiguousarray(source).tobytes()).hexdigest()
    return hashlib.sha256(_read_bytes(source, limits)[0]).hexdigest()


def _as_array(
    source: Source, limits: Limits
) -> str | os.PathLike[str] | Buffer | npt.NDArray[Any] | Picture:
    """Return a PIL image as an array, a prepared one as a picture, and anything else unchanged."""
    if isinstance(source, Picture):
        return source
    if isinstance(source, PreparedImage):
        return source.picture()
    mode = getattr(source, "mode", None)
    if not (isinstance(mode, str) and hasattr(source, "convert")):
        return cast(str | os.PathLike[str] | Buffer | npt.NDArray[Any], source)
    try:
        width, height = cast(PilImage, source).size
        check_pixels((height, width), "the PIL image", limits)
        return _from_pil(source, mode)
    except ImageError:
        raise
    except Exception as error:  # PIL decodes lazily, and raises many kinds
        raise ImageError(f"cannot read the PIL image: {error}") from error


def _from_pil(image: Any, mode: str) -> npt.NDArray[Any]:
    """Return the pixels of a PIL image."""
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if mode == "I":
        return np.asarray(image)
    alpha = "A" in mode or "transparency" in getattr(image, "info", {})
    if alpha or mode not in ("L", "RGB"):
        image = image.convert("RGBA" if alpha else "RGB")
    return np.asarray(image)


def _drawn_tensor(tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return a tensor [C, H, W] as uint8 [H, W, 3], each channel stretched to 0..255."""
    values = tensor if len(tensor) == 3 else tensor[:1].repeat(3, axis=0)
    low = values.min((1, 2), keepdims=True)
    span = np.maximum(values.max((1, 2), keepdims=True) - low, np.finfo(np.float32).tiny)
    return np.ascontiguousarray(
        np.rint((values - low) / span * 255).transpose(1, 2, 0), dtype=np.uint8
    )


def _read_bytes(source: str | os.PathLike[str] | Buffer, limits: Limits) -> tuple[bytes, str]:
    """Return an image's bytes and its name in error messages."""
    if isinstance(source, str | os.PathLike):
        return read_file(source, "image", ImageError, limits), name_of(source)
    try:
        view = memoryview(source)
    except (TypeError, ValueError):  # no buffer, or a closed one
        raise ImageError(
            f"the image is a {type(source).__name__}; "
            "pass a path, the bytes of a file, a PIL image, or an array uint8 [H, W, 3]"
        ) from None
    if (size := view.nbytes) > limits.file_bytes:
        raise ImageError(
            f"the image has {size:,} bytes, more than the limit of {limits.file_bytes:,} for a "
            f"file; set {variable('file_bytes')} to allow more"
        )
    return bytes(view), "the image"
