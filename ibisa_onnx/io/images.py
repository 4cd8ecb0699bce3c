"""Pictures: from a path, bytes or an array to uint8 RGB. What the model makes of them is elsewhere.

A picture comes out as a person sees it: rotated as its EXIF data say, grey as three equal channels,
16 bits as 8, transparent parts over white.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError


class PilImage(Protocol):
    """What is asked of a `PIL.Image.Image`."""

    @property
    def mode(self) -> str:
        """How its pixels are stored."""

    def convert(self, mode: str, /) -> Any:
        """Return it with its pixels stored otherwise."""


Source = str | os.PathLike[str] | bytes | npt.NDArray[Any] | PilImage
"""A path, a file's bytes, an array, or a PIL image, which is taken as it lies in memory."""

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_JPEG = b"\xff\xd8"  # has no transparency


@dataclass(frozen=True)
class Picture:
    """A picture and where it came from.

    Attributes
    ----------
    pixels
        uint8 [H, W, 3], RGB, 0..255.
    name
        The file's name without its folder, None for bytes and arrays.
    sha256
        Of the file's bytes, or for an array of its dtype, shape and values.
    """

    pixels: npt.NDArray[np.uint8]
    name: str | None
    sha256: str


def read_picture(source: Source) -> Picture:
    """Read a picture once, for its pixels and its hash; see `read_image`."""
    source = _as_array(source)
    if isinstance(source, np.ndarray):
        return Picture(_to_rgb(source, "the array"), None, image_sha256(source))
    data, label = _read_bytes(source)
    name = Path(source).name if isinstance(source, str | os.PathLike) else None
    return Picture(_from_bytes(data, label), name, hashlib.sha256(data).hexdigest())


def read_image(source: Source) -> npt.NDArray[np.uint8]:
    """Read a picture.

    Parameters
    ----------
    source
        The path or the bytes of a JPEG, PNG, BMP, WebP or TIFF file, a PIL image, or an array
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
    source = _as_array(source)
    if isinstance(source, np.ndarray):
        return _to_rgb(source, "the array")
    return _from_bytes(*_read_bytes(source))


def image_sha256(source: Source) -> str:
    """Hash a picture: the file's bytes, or for an array its dtype, shape and values."""
    source = _as_array(source)
    if isinstance(source, np.ndarray):
        header = f"{source.dtype} {source.shape} ".encode()
        return hashlib.sha256(header + np.ascontiguousarray(source).tobytes()).hexdigest()
    return hashlib.sha256(_read_bytes(source)[0]).hexdigest()


def _as_array(source: Source) -> str | os.PathLike[str] | bytes | npt.NDArray[Any]:
    """Return a PIL image as an array, and anything else as it is."""
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


def _from_bytes(data: bytes, label: str) -> npt.NDArray[np.uint8]:
    """Decode a file's bytes to uint8 RGB."""
    if not data:
        raise ImageError(f"{label} is empty (0 bytes); give a picture")
    return _to_rgb(_decode(data, label), label)


def _decode(data: bytes, label: str) -> npt.NDArray[Any]:
    """Decode to RGB or RGBA, 8 or 16 bits, the right way up."""
    import cv2

    refusal = f"{label} is not a picture that can be read (JPEG, PNG, BMP, WebP, TIFF), or damaged"
    if data.startswith(_PNG) and _PNG_END not in data:
        raise ImageError(f"{label} is a truncated PNG; copy it again")
    encoded = np.frombuffer(data, np.uint8)
    try:
        upright = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        stored = upright if data.startswith(_JPEG) else cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(refusal) from error
    if stored is None or upright is None:
        raise ImageError(refusal)
    if stored.ndim == 3 and stored.shape[2] == 4:
        stored = _turned_like(upright, stored)
        return cv2.cvtColor(stored, cv2.COLOR_BGRA2RGBA)
    return cv2.cvtColor(upright, cv2.COLOR_BGR2RGB)


def _turned_like(upright: npt.NDArray[Any], stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn a picture with transparency as its EXIF data say.

    The decoder applies them only where it drops transparency, so try which turn gives that.
    """
    for turned in _turns(stored):
        if np.array_equal(turned[..., :3], upright):
            return turned
    return stored


def _turns(image: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield a picture in the eight orientations of EXIF, as stored first."""
    for quarter in range(4):
        turned = np.rot90(image, quarter)
        yield turned
        yield turned[:, ::-1]


def _to_rgb(image: npt.NDArray[Any], label: str) -> npt.NDArray[np.uint8]:
    """Bring grey, RGB or RGBA of 8 or 16 bits to uint8 RGB."""
    if image.dtype == np.uint16:
        image = _to_8_bits(image)
    if image.dtype != np.uint8:
        image = _bytes_of(image, label)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ImageError(f"{label} has shape {list(image.shape)}; give [H, W, 3] RGB")
    if image.shape[2] == 4:
        image = _over_white(image)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _bytes_of(image: npt.NDArray[Any], label: str) -> npt.NDArray[np.uint8]:
    """Bring integers 0..255, floats 0..1 and booleans to uint8; ImageError of anything else."""
    kind, most = image.dtype.kind, 1 if image.dtype.kind == "f" else 255
    if kind not in "biuf":
        raise ImageError(f"{label} has {image.dtype} pixels; give integers 0..255 or floats 0..1")
    if image.size == 0:
        return image.astype(np.uint8)
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= most):  # NaN too
        raise ImageError(
            f"{label} has {image.dtype} pixels from {low:g} to {high:g}; give 0 to {most}, or uint8"
        )
    scaled = np.rint(image * np.float64(255)) if kind in "bf" else image
    return np.asarray(scaled, np.uint8)


def _to_8_bits(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Scale 0..65535 to 0..255: 257 steps to one, rounded to the nearest."""
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _over_white(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Lay RGBA over white, as a viewer shows it."""
    colour, alpha = image[..., :3].astype(np.uint32), image[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
