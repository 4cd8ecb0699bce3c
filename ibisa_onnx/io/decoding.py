"""The bytes of a picture's file to an array of its own depth: OpenCV, NumPy, and tifffile.

OpenCV reads pictures of one to four channels as people look at them. What instruments write, TIFF
of other channels and of half precision, is `tifffile`'s, an extra. What the numbers mean is not
known here.
"""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError
from ibisa_onnx.imports import import_extra

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_JPEG = b"\xff\xd8"  # has no transparency
_NPY = b"\x93NUMPY"
_REFUSAL = (
    "{} is not a picture that can be read (JPEG, PNG, BMP, WebP, TIFF or .npy), or it is damaged"
)
_LOG_LEVEL = threading.Lock()

# Tags of a TIFF file, and the sizes of the types that their values have there.
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_TYPES = {3: "H", 4: "I", 16: "Q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_FLOAT = 3
_ALPHA = (1, 2)


def decode(data: bytes, label: str) -> npt.NDArray[Any]:
    """Decode a picture's file.

    Parameters
    ----------
    data
        JPEG, PNG, BMP, WebP, TIFF (its first page), or .npy.
    label
        What to call it in an error.

    Returns
    -------
    ndarray
        [H, W] grey or [H, W, C] in the file's own dtype, the right way up; three channels are RGB
        and four RGBA, but in .npy files and TIFF files of unnamed channels what they are.

    Raises
    ------
    ImageError
        It is no picture, or damaged.
    MissingDependencyError
        It takes `tifffile`, which is not installed.
    """
    if not data:
        raise ImageError(f"{label} is empty (0 bytes); give a picture")
    if data.startswith(_NPY):
        return _load_npy(data, label)
    if data.startswith(_PNG) and _PNG_END not in data:
        raise ImageError(f"{label} is a truncated PNG; copy it again")
    tags = _read_tags(data)
    if tags is not None and tags.for_tifffile:
        return _load_tiff(data, label)
    return _decode(data, label, grey=tags is not None and tags.deep_grey)


def _load_npy(data: bytes, label: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise ImageError(f"{label} is no array that NumPy can read: {error}") from error


def _load_tiff(data: bytes, label: str) -> npt.NDArray[Any]:
    """Read the first page of a TIFF file as [H, W] or [H, W, C]."""
    tifffile = import_extra("tifffile", "tiff")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            values = np.asarray(page.asarray())
            return np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    except Exception as error:  # of many kinds, with what is damaged or missing in the message
        raise ImageError(f"{label} cannot be read by tifffile: {error}") from error


def _decode(data: bytes, label: str, *, grey: bool) -> npt.NDArray[Any]:
    """Decode by OpenCV to grey, RGB or RGBA, the right way up."""
    import cv2

    encoded = np.frombuffer(data, np.uint8)
    colour = cv2.IMREAD_ANYDEPTH if grey else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    plain = grey or data.startswith(_JPEG)
    try:
        with _silenced():
            upright = cv2.imdecode(encoded, colour)
            stored = upright if plain else cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(_REFUSAL.format(label)) from error
    if stored is None or upright is None:
        raise ImageError(_REFUSAL.format(label))
    if stored.ndim == 3 and stored.shape[2] == 4:
        return cv2.cvtColor(_turned_like(upright, stored), cv2.COLOR_BGRA2RGBA)
    if upright.ndim == 2:
        return upright
    if stored.ndim == 2 and stored.dtype == upright.dtype != np.uint8:
        return np.ascontiguousarray(upright[..., 0])  # grey has three equal channels there
    return cv2.cvtColor(upright, cv2.COLOR_BGR2RGB)


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep OpenCV's own words on a damaged file from stderr; our error says it."""
    import cv2

    log = cv2.utils.logging
    with _LOG_LEVEL:
        level = log.getLogLevel()
        log.setLogLevel(log.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            log.setLogLevel(level)


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


@dataclass(frozen=True)
class _TiffTags:
    """What the first page of a TIFF file says of its pixels; TIFF 6.0, sections 8 and 18 to 20."""

    samples: int
    bits: int
    format: int
    photometric: int
    extra: tuple[int, ...]

    @property
    def deep_grey(self) -> bool:
        """Whether it is grey of more than 8 bits, or no integers without a sign."""
        return self.samples == 1 and self.photometric < 2 and (self.bits > 8 or self.format > 1)

    @property
    def for_tifffile(self) -> bool:
        """Whether OpenCV would refuse it, or drop channels without a word."""
        if self.format == _FLOAT and self.bits == 16:
            return True
        alpha = len(self.extra) == 1 and self.extra[0] in _ALPHA
        if self.photometric < 2:
            return self.samples > 1 + alpha
        return self.samples > 4


def _read_tags(data: bytes) -> _TiffTags | None:
    """Read the tags of the first page of a TIFF or BigTIFF file, None where it is neither."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        if version not in (42, 43):
            return None
        tags = _directory(data, order, big=version == 43)
    except struct.error:
        return None  # truncated: whoever decodes it says so
    first = {tag: values[0] for tag, values in tags.items() if values}
    return _TiffTags(
        first.get(_SAMPLES, 1),
        first.get(_BITS, 1),
        first.get(_FORMAT, 1),
        first.get(_PHOTOMETRIC, 0),
        tags.get(_EXTRA, ()),
    )


def _directory(data: bytes, order: str, *, big: bool) -> dict[int, tuple[int, ...]]:
    """Return the first directory's tags that are whole numbers, by their numbers."""
    word, size = ("Q", 8) if big else ("I", 4)
    (at,) = struct.unpack_from(f"{order}{word}", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, at)
    at += 8 if big else 2
    found = {}
    for entry in range(at, at + min(count, 4096) * (4 + 2 * size), 4 + 2 * size):
        tag, kind, length = struct.unpack_from(f"{order}HH{word}", data, entry)
        if kind not in _TYPES or length > 64:
            continue
        place = entry + 4 + size
        if length * _SIZES[kind] > size:
            (place,) = struct.unpack_from(f"{order}{word}", data, place)
        found[tag] = struct.unpack_from(f"{order}{length}{_TYPES[kind]}", data, place)
    return found
