"""Pictures: from a path, bytes or an array to their values, and to 8-bit RGB as they are drawn.

A picture comes out as a person sees it: rotated as its EXIF data say, transparent parts over white.
What 8 bits do not hold is kept beside that. What the model makes of them is elsewhere.
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
from ibisa_onnx.io.files import name_of, read_file
from ibisa_onnx.io.headers import check_pixels
from ibisa_onnx.io.pixels import as_channels, drawn, find_white, to_8_bits, to_rgb
from ibisa_onnx.io.reduction import Reduction
from ibisa_onnx.limits import Limits, variable


class PilImage(Protocol):
    """What is asked of a `PIL.Image.Image`."""

    @property
    def mode(self) -> str:
        """How its pixels are stored."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    def convert(self, mode: str, /) -> Any:
        """Return it with its pixels stored otherwise."""


@dataclass(frozen=True)
class DeepValues:
    """What a picture holds that 8-bit RGB does not: more bits, or other channels.

    Attributes
    ----------
    values
        [H, W, C], C from 1 to 16, finite, in the picture's own dtype.
    white
        The value that stands for full brightness: 255, 65535, or 1; None where nobody knows.
    label
        What to call the picture.
    """

    values: npt.NDArray[Any]
    white: float | None
    label: str

    @property
    def depth(self) -> str:
        """How deep it is, in words: "16 bits", "float32 pixels"."""
        dtype = self.values.dtype
        return f"{8 * dtype.itemsize} bits" if dtype.kind == "u" else f"{dtype} pixels"

    @property
    def is_rgba_bytes(self) -> bool:
        """Whether it is RGB of 8 bits but for its transparency."""
        return self.values.dtype == np.uint8 and self.values.shape[2] == 4

    @property
    def range(self) -> tuple[float, float]:
        """Its least and its greatest value."""
        return float(self.values.min()), float(self.values.max())


@dataclass(frozen=True)
class Picture:
    """A picture and where it came from.

    Attributes
    ----------
    pixels
        uint8 [H, W, 3], RGB, 0..255: as it is drawn.
    name
        The file's name without its folder, None for bytes and arrays.
    sha256
        Of the file's bytes, or for an array of its dtype, shape and values.
    deep
        Its own values; None where `pixels` are all of it.
    reduced_from
        Height and width of the file's picture, of which less was read; None: all of it was.
    notes
        What a user must know of how it was read.
    """

    pixels: npt.NDArray[np.uint8]
    name: str | None
    sha256: str
    deep: DeepValues | None = None
    reduced_from: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def reduction(self) -> int:
        """By what both sides were reduced as it was read: 1, 2, 4 or 8."""
        return round(max(self.size) / max(_size(self.pixels)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture that was given, in whose pixels all places are."""
        return self.reduced_from or _size(self.pixels)


Source = str | os.PathLike[str] | bytes | npt.NDArray[Any] | PilImage | Picture
"""A path, a file's bytes, an array, a PIL image, taken as it lies in memory, or one read before."""

_ARRAY = "the array"


def read_picture(
    source: Source, limits: Limits | None = None, reduction: Reduction | None = None
) -> Picture:
    """Read a picture once, for its values and its hash.

    Parameters
    ----------
    source
        As of `read_image`. TIFF and .npy files may hold up to 16 channels, and integers and floats
        of any range; of a TIFF file the first page counts.
    limits
        How many bytes a file may have, and how many pixels; None: as the environment says.
    reduction
        By what a file's picture is reduced as it is read, of its height and width; None: by
        nothing. Arrays and PIL images never are.

    Raises
    ------
    ImageError
        There is no such file, it is no picture or too large, or the array has another shape or
        dtype.
    MissingDependencyError
        It is a TIFF file that takes `tifffile`, which is not installed.
    """
    limits = limits or Limits.from_environment()
    source = _as_array(source, limits)
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        if source.ndim > 1 and source.size:
            check_pixels(source.shape, _ARRAY, limits)
        values = as_channels(source.copy(), _ARRAY)  # which its owner may change
        if values.dtype.kind == "f":
            values = _of_fractions(values, _ARRAY)
        return _picture(Decoded(values, _size(values)), _ARRAY, None, image_sha256(source))
    data, label = _read_bytes(source, limits)
    name = Path(source).name if isinstance(source, str | os.PathLike) else None
    return _picture(
        decode(data, label, limits, reduction), label, name, hashlib.sha256(data).hexdigest()
    )


def read_image(source: Source, limits: Limits | None = None) -> npt.NDArray[np.uint8]:
    """Read a picture as 8-bit RGB, not stretched.

    Parameters
    ----------
    source
        The path or the bytes of a JPEG, PNG, BMP, WebP, GIF, TIFF or .npy file, a PIL image, or an
        array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA): integers 0..255, uint16
        0..65535, floats 0..1 or booleans.
    limits
        How many bytes a file may have, and how many pixels; None: as the environment says.

    Returns
    -------
    ndarray
        uint8 [H, W, 3], RGB, 0..255.

    Raises
    ------
    ImageError
        There is no such file, it is no picture or too large, or the array has another shape or
        dtype.
    """
    picture = read_picture(source, limits)
    if (deep := picture.deep) is None:
        return picture.pixels
    if deep.white is None:
        raise ImageError(_beyond(deep.values, deep.label))
    return to_rgb(to_8_bits(deep.values, deep.white), 255, deep.label)


def _picture(read: Decoded, label: str, name: str | None, sha256: str) -> Picture:
    """Put together what was read: what 8 bits hold is kept in 8 bits."""
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
        f"{label} is {width} x {height}: it is read at 1/{factor} of its size, and the map has "
        "that size, too; places are in pixels of the file"
    )
    return replace(picture, notes=(*read.notes, note))


def _size(values: npt.NDArray[Any]) -> tuple[int, int]:
    height, width = values.shape[:2]
    return height, width


def _of_fractions(values: npt.NDArray[Any], label: str) -> npt.NDArray[Any]:
    """Bring floats 0..1 to 0..255; to bytes where they are 8-bit values over 255."""
    if not (values.min() >= 0 and values.max() <= 1):
        raise ImageError(_beyond(values, label))
    rounding = 255 * float(np.finfo(values.dtype).eps)
    scaled = values.astype(np.promote_types(values.dtype, np.float32)) * 255
    nearest = np.rint(scaled)
    return nearest.astype(np.uint8) if np.abs(scaled - nearest).max() <= rounding else scaled


def _beyond(values: npt.NDArray[Any], label: str) -> str:
    """Say that values are no pixels whose white is known."""
    most = 1 if values.dtype.kind == "f" else 255
    return (
        f"{label} has {values.dtype} pixels from {values.min():g} to {values.max():g}; "
        f"give 0 to {most}, or uint8"
    )


def image_sha256(source: Source, limits: Limits | None = None) -> str:
    """Hash a picture: the file's bytes, or for an array its dtype, shape and values."""
    limits = limits or Limits.from_environment()
    source = _as_array(source, limits)
    if isinstance(source, Picture):
        return source.sha256
    if isinstance(source, np.ndarray):
        header = f"{source.dtype} {source.shape} ".encode()
        return hashlib.sha256(header + np.ascontiguousarray(source).tobytes()).hexdigest()
    return hashlib.sha256(_read_bytes(source, limits)[0]).hexdigest()


def _as_array(
    source: Source, limits: Limits
) -> str | os.PathLike[str] | bytes | npt.NDArray[Any] | Picture:
    """Return a PIL image as an array, and anything else as it is."""
    if isinstance(source, Picture):
        return source
    mode = getattr(source, "mode", None)
    if not (isinstance(mode, str) and hasattr(source, "convert")):
        return cast(str | os.PathLike[str] | bytes | npt.NDArray[Any], source)
    try:
        width, height = cast(PilImage, source).size
        check_pixels((height, width), "the PIL image", limits)
        return _from_pil(source, mode)
    except ImageError:
        raise
    except Exception as error:  # PIL decodes only now, and says what is wrong in many ways
        raise ImageError(f"the PIL image cannot be read: {error}") from error


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


def _read_bytes(source: str | os.PathLike[str] | bytes, limits: Limits) -> tuple[bytes, str]:
    """Return a picture's bytes and what to call it in an error."""
    if isinstance(source, str | os.PathLike):
        return read_file(source, "picture", ImageError, limits), name_of(source)
    if not isinstance(source, bytes | bytearray | memoryview):
        raise ImageError(
            f"the picture is a {type(source).__name__}; "
            "give a path, the bytes of a file, a PIL image, or an array uint8 [H, W, 3]"
        )
    if (size := memoryview(source).nbytes) > limits.file_bytes:
        raise ImageError(
            f"the picture has {size:,} bytes, more than the {limits.file_bytes:,} that a file may "
            f"have; set {variable('file_bytes')} to allow more"
        )
    return bytes(source), "the picture"
