"""Maps, pictures and records as the bytes of files, and back."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


def encode_npy(map: npt.NDArray[np.float32]) -> bytes:
    """Return a map as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, map, allow_pickle=False)
    return buffer.getvalue()


def jsonable(value: Any) -> Any:
    """Return `value` in JSON's own types."""
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 [H, W, 3] RGB, as the bytes of a PNG file."""
    import cv2

    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    return bytes(encoded.tobytes())


def decode_png(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the picture, uint8 [H, W, 3] RGB, in the bytes of a PNG file; ValueError if none."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("image.png is not a picture")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
