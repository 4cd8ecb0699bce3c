"""Pictures: from a path, bytes or an array to their values, and to 8-bit RGB as they are drawn.

A picture comes out as a person sees it: rotated as its EXIF data say, transparent parts over white.
What 8 bits do not hold is kept beside that. What the model makes of them is elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError
from ibisa_onnx.io.decoding import decode
from ibisa_onnx.io.pixels import as_channels, drawn, find_white, to_8_bits, to_rgb


class PilImage(Protocol):
    """What is asked of a `PIL.Image.Image`."""

    @property
    def mode(self) -> str:
        """How its pixels are stored."""

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
    """

    pixels: npt.NDArray[np.uint8]
    name: str | None
    sha256: str
    deep: DeepValues | None = None


Source = str | os.PathLike[str] | bytes | npt.NDArray[Any] | PilImage | Picture
"""A path, a file's bytes, an array, a PIL image, taken as it lies in memory, or one read before."""

_ARRAY = "the array"


def read_picture(source: Source) -> Picture:
    """Read a picture once, for its values and its hash.

    Parameters
    ----------
    source
        As of `read_image`. TIFF and .npy files may hold up to 16 channels, and integers and floats
        of any range; of a TIFF file the first page counts.

    Raises
    ------
    ImageError
        There is no such file, it is no picture, or the array has another shape or dtype.
    MissingDependencyError
        It is a TIFF file that takes `tifffile`, which is not installed.
    """
    source = _as_array(source)
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        values = as_channels(source, _ARRAY)
        if values.dtype.kind == "f":
            values = _of_fractions(values, _ARRAY)
        return _picture(values, _ARRAY, None, image_sha256(source))
    data, label = _read_bytes(source)
    name = Path(source).name if isinstance(source, str | os.PathLike) else None
    values = as_channels(decode(data, label), label)
    return _picture(values, label, name, hashlib.sha256(data).hexdigest())


def read_image(source: Source) -> npt.NDArray[np.uint8]:
    """Read a picture as 8-bit RGB, not stretched.

    Parameters
    ----------
    source
        The path or the bytes of a JPEG, PNG, BMP, WebP, TIFF or .npy file, a PIL image, or an array
        [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] (RGBA): integers 0..255, uint16 0..65535,
        floats 0..1 or booleans.

    Returns
    -------
    ndarray
        uint8 [H, W, 3], RGB, 0..255.

    Raises
    ------
    ImageError
        There is no such file, it is no picture, or the array has another shape or dtype.
    """
    picture = read_picture(source)
    if (deep := picture.deep) is None:
        return picture.pixels
    if deep.white is None:
        raise ImageError(_beyond(deep.values, deep.label))
    return to_rgb(to_8_bits(deep.values, deep.white), 255, deep.label)


def _picture(values: npt.NDArray[Any], label: str, name: str | None, sha256: str) -> Picture:
    """Put together what was read, [H, W, C]: what 8 bits hold is kept in 8 bits."""
    if values.dtype.kind == "b":
        values = to_8_bits(values, 1)
    white = 255.0 if label == _ARRAY and values.dtype.kind == "f" else find_white(values)
    if white == 255 and values.dtype.kind in "iu":
        values = to_8_bits(values, white)
    if values.dtype == np.uint8 and values.shape[2] in (1, 3):
        return Picture(to_rgb(values, 255, label), name, sha256)
    return Picture(drawn(values, white), name, sha256, DeepValues(values, white, label))


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


def image_sha256(source: Source) -> str:
    """Hash a picture: the file's bytes, or for an array its dtype, shape and values."""
    source = _as_array(source)
    if isinstance(source, Picture):
        return source.sha256
    if isinstance(source, np.ndarray):
        header = f"{source.dtype} {source.shape} ".encode()
        return hashlib.sha256(header + np.ascontiguousarray(source).tobytes()).hexdigest()
    return hashlib.sha256(_read_bytes(source)[0]).hexdigest()


def _as_array(source: Source) -> str | os.PathLike[str] | bytes | npt.NDArray[Any] | Picture:
    """Return a PIL image as an array, and anything else as it is."""
    if isinstance(source, Picture):
        return source
    mode = getattr(source, "mode", None)
    if not (isinstance(mode, str) and hasattr(source, "convert")):
        return cast(str | os.PathLike[str] | bytes | npt.NDArray[Any], source)
    try:
        return _from_pil(source, mode)
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


def _read_bytes(source: str | os.PathLike[str] | bytes) -> tuple[bytes, str]:
    """Return a picture's bytes and what to call it in an error."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "the picture"
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"the picture is a {type(source).__name__}; "
            "give a path, the bytes of a file, a PIL image, or an array uint8 [H, W, 3]"
        )
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder, not a picture; name a file in it")
        return path.read_bytes(), str(path)
    except FileNotFoundError:
        raise ImageError(f"there is no picture {path}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot read {str(path)[:200]!r}: {why}") from error
