"""Encodes maps, images and records as files, and decodes them."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ibisa_onnx.checks import shown
from ibisa_onnx.errors import ImageError, OptionError, ResultError
from ibisa_onnx.escaping import escaped_json
from ibisa_onnx.limits import Limits

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = struct.Struct(">16xII")
"""Width and height, after the signature and the length and name of the first chunk."""


def encode_npy(map: npt.NDArray[np.float32]) -> bytes:
    """Encode a map as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, map, allow_pickle=False)
    return buffer.getvalue()


def encode_json(record: Mapping[str, Any]) -> bytes:
    """Encode JSON data (see `jsonable`) as an indented .json file."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{escaped_json(text)}\n".encode()


def jsonable(value: Any) -> Any:
    """Convert a value to JSON types, with text that can be encoded as UTF-8.

    Lone surrogates, as in file names that are not UTF-8, are escaped.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {_text(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return _text(value)


def _text(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


ResultSuffix = Literal[".png", ".npy", ".json"]
"""Suffixes of result files: the overlay, the map and the record."""
ImageFormat = Literal["png", "jpeg", "webp"]
"""Formats of drawn images."""
IMAGE_FORMATS: tuple[ImageFormat, ...] = get_args(ImageFormat)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode an image, uint8 [H, W, 3] RGB, as a PNG file."""
    return encode_image(image, "png")


def encode_image(image: npt.NDArray[np.uint8], format: ImageFormat) -> bytes:
    """Encode an image, uint8 [H, W, 3] RGB, as a PNG, JPEG or WebP file.

    Raises
    ------
    OptionError
        The format is none of these.
    ResultError
        The image is too large for the format.
    """
    if format not in IMAGE_FORMATS:
        raise OptionError(f"format is {shown(format)}; choose from: {', '.join(IMAGE_FORMATS)}")
    import cv2

    try:
        done, encoded = cv2.imencode(f".{format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        height, width = image.shape[:2]
        raise ResultError(
            f"{width} x {height} pixels cannot be encoded as {format}", "pass a smaller size"
        )
    return bytes(encoded.tobytes())


def decode_png(data: bytes, size: tuple[int, ...], limits: Limits) -> npt.NDArray[np.uint8]:
    """Decode a PNG file as `encode_png` writes it.

    Parameters
    ----------
    data
        The file's bytes.
    size
        Expected height and width; checked against the header before decoding.
    limits
        Limit on pixels.

    Returns
    -------
    ndarray
        uint8 [H, W, 3], RGB.

    Raises
    ------
    ValueError
        It is not such a file, is damaged, or has another size.
    """
    from ibisa_onnx.io.decoding import decode

    if not data.startswith(_PNG) or len(data) < _PNG_HEADER.size:
        raise ValueError("image.png is not a PNG image")
    width, height = _PNG_HEADER.unpack_from(data)
    if (height, width) != size:
        raise ValueError(f"the map is {list(size)}, but image.png {[height, width]}")
    try:
        image = decode(data, "image.png", limits).values
    except ImageError as error:
        raise ValueError(str(error)) from error
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(f"image.png is {image.dtype} {list(image.shape)}, expected 8-bit RGB")
    return np.array(image)
