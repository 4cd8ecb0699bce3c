"""Decodes image files to arrays of their own depth: Pillow, OpenCV, NumPy, tifffile.

The header is read first (`headers`), and the decoded image must have the size it declares. Pillow
decodes JPEG, 8-bit PNG and GIF, since it prints nothing about damaged files and reads JPEG reduced;
OpenCV decodes 16-bit PNG, WebP, BMP and TIFF of one to four channels. Scientific TIFF, with other
channels or half precision, requires the extra `tifffile`. The meaning of the values is not known
here.
"""

from __future__ import annotations

import io
import logging
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ibisa_onnx.errors import ImageError
from ibisa_onnx.imports import import_extra
from ibisa_onnx.io.arrays import read_npy
from ibisa_onnx.io.files import GIT_LFS, GIT_LFS_ADVICE
from ibisa_onnx.io.headers import (
    PNG_CHANNELS,
    DamagedError,
    Header,
    check_pixels,
    png_chunks,
    read_header,
)
from ibisa_onnx.io.reduction import Reduction, area_means
from ibisa_onnx.limits import Limits

Values = npt.NDArray[Any]
_NPY = b"\x93NUMPY"
_LOG_LEVEL = threading.Lock()
_STRIP = 1 << 20  # pixels converted at a time
_BLOCK = 1 << 20  # bytes inflated at a time
_MISSING = 128  # libjpeg's fill value for missing data
_MISSING_ROWS = 16
# TIFF: none, LZW, deflate, PackBits and the old deflate; tifffile does not bound others.
_COMPRESSIONS, _DEFLATED = (1, 5, 8, 32773, 32946), (8, 32946)


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes
    ----------
    values
        [h, w] grey or [h, w, C] in the file's own dtype, upright; three channels are RGB and four
        RGBA, except in .npy files and TIFF files with unnamed channels.
    size
        Height and width of the image in the file.
    notes
        What a user must know about it.
    """

    values: Values
    size: tuple[int, int]
    notes: tuple[str, ...] = ()


def decode(data: bytes, label: str, limits: Limits, reduction: Reduction | None = None) -> Decoded:
    """Decode an image file.

    Parameters
    ----------
    data
        JPEG, PNG, BMP, WebP, GIF (its first frame), TIFF (its first page), or .npy.
    label
        Name of the image in error messages.
    limits
        Limit on pixels.
    reduction
        Returns the factor by which the image may be reduced; None: not at all. A side that is not a
        multiple is rounded up.

    Returns
    -------
    Decoded
        The image.

    Raises
    ------
    ImageError
        The file is not an image, is damaged, or too large.
    MissingDependencyError
        It requires `tifffile`, which is not installed.
    """
    if not data:
        raise ImageError(f"{label} is empty (0 bytes); pass an image file")
    if data.startswith(GIT_LFS):
        raise ImageError(f"{label} is a Git LFS pointer, not an image; {GIT_LFS_ADVICE}")
    if data.startswith(_NPY):
        values = read_npy(data, label, ImageError, limits)
        if values.ndim > 1:
            check_pixels(values.shape, label, limits)
        return _reduced(values, reduction)
    header = read_header(data, label, limits)
    del data  # the header has the relevant part
    factor = reduction(header.size) if reduction else 1
    if header.format in ("JPEG", "GIF") or (header.format == "PNG" and header.depth < 16):
        values = _by_pillow(header, label, factor)
        notes = _missing(values, label) if header.fades else ()
        # A partial square comes first after rotation, an offset of less than one pixel.
        return Decoded(_upright(values, header.orientation), header.size, notes)
    values = (_by_tifffile if header.for_tifffile else _by_opencv)(header, label)
    return _reduced(values, reduction)


def _by_pillow(header: Header, label: str, factor: int) -> Values:
    """Decode with Pillow to grey [h, w], RGB or RGBA, as stored."""
    from PIL.GifImagePlugin import GifImageFile
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    # Not with `Image.open`, which tries other formats, warns, and has its own limit.
    files: Mapping[str, Any] = {"JPEG": JpegImageFile, "PNG": PngImageFile, "GIF": GifImageFile}
    try:
        with files[header.format](io.BytesIO(header.image)) as image:
            _check_size((image.height, image.width), (header.height, header.width))
            if factor > 1 and header.format == "JPEG":
                image.draft(None, (image.width // factor, image.height // factor))
                stored = (-(-side // factor) for side in (header.height, header.width))
                _check_size((image.height, image.width), tuple(stored))
                factor = 1
            image.load()
            if header.format == "PNG" and _may_end_early(image):
                _check_png_stream(header, label)
            return _in_strips(image, factor)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises many kinds
        raise _damaged(label, error) from error


def _may_end_early(image: Any) -> bool:
    """Return whether a PNG may lack pixels, which Pillow leaves as zeros."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return bool(image.info.get("interlace")) or not np.asarray(last).any()


def _in_strips(image: Any, factor: int) -> Values:
    """Return the pixels of a Pillow image in strips, to avoid a second copy in memory."""
    alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    mode = "RGBA" if alpha else "L" if image.mode in ("1", "L") else "RGB"
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    high, wide = (-(-side // factor) for side in (image.height, image.width))
    values = np.empty((high, wide, *channels), np.uint8)
    rows = max(1, _STRIP // (image.width * factor))
    for row in range(0, high, rows):
        bottom = min((row + rows) * factor, image.height)
        strip = image.crop((0, row * factor, image.width, bottom)).convert(mode)
        values[row : row + rows] = area_means(np.asarray(strip), factor)
    return values


def _by_opencv(header: Header, label: str) -> Values:
    """Decode with OpenCV to grey, RGB or RGBA, upright."""
    import cv2

    if header.format == "PNG":
        _check_png_stream(header, label)  # otherwise libpng prints the damage
    plain = header.format == "BMP" and header.depth < 32  # OS/2 files are wrong otherwise
    flags = cv2.IMREAD_COLOR if plain else cv2.IMREAD_UNCHANGED
    try:
        with _silenced():
            values = cv2.imdecode(np.frombuffer(header.image, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(label, error) from error
    if values is None:
        raise _damaged(label, "OpenCV cannot decode it")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        code = cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        cv2.cvtColor(values, code, dst=values)
    if header.format != "TIFF":  # libtiff has rotated it
        values = _upright(values, header.orientation)
    _check_decoded(values, header.size, label)
    return values


def _by_tifffile(header: Header, label: str) -> Values:
    """Read the first page of a TIFF file as [H, W] or [H, W, C]."""
    tifffile = import_extra("tifffile", "tiff")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # keeps it off stderr
    try:
        with tifffile.TiffFile(io.BytesIO(header.image)) as file:
            page = file.pages[0]
            _check_segments(page, header.image)
            values = np.asarray(page.asarray())
            values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    except Exception as error:  # tifffile raises many kinds; the message has the cause
        raise ImageError(f"tifffile cannot read {label}: {error}") from error
    _check_decoded(values, header.size, label)
    return values


def _check_segments(page: Any, data: bytes) -> None:
    """Raise `ValueError` if compressed data exceed the page, before they are inflated.

    tifffile limits other codecs to the expected size.
    """
    compression = int(page.compression)
    if compression not in _COMPRESSIONS:
        raise ValueError(f"unsupported compression {compression}; save it uncompressed or deflated")
    if compression not in _DEFLATED:
        return
    most = 4 * page.nbytes + (64 << 20)  # tiles may reach beyond it
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        inflate, rest = zlib.decompressobj(), data[start : start + length]
        while rest:
            most -= len(inflate.decompress(rest, _BLOCK))
            if most < 0:
                raise ValueError("its data inflate to more than its pixels")
            rest = inflate.unconsumed_tail


def _reduced(values: Values, reduction: Reduction | None) -> Decoded:
    """Reduce an image that had to be decoded at full size."""
    if values.ndim not in (2, 3) or values.dtype.kind not in "iuf" or reduction is None:
        return Decoded(values, _size(values))
    size = _size(values)
    return Decoded(area_means(values, reduction(size)), size)


def _size(values: Values) -> tuple[int, int]:
    height, width = (*values.shape, 1, 1)[:2]
    return height, width


def _missing(values: Values, label: str) -> tuple[str, ...]:
    """Return a warning if the last stored rows of a JPEG have the fill value for missing data."""
    if not (values[-_MISSING_ROWS:] == _MISSING).all():
        return ()
    return (
        f"the lower part of {label} is uniform grey, as in a truncated JPEG; inspect the image",
    )


def _upright(values: Values, orientation: int) -> Values:
    """Rotate and flip an image by its EXIF orientation, 1 to 8."""
    if orientation > 4:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _check_png_stream(header: Header, label: str) -> None:
    """Raise `ImageError` unless the data of a PNG file inflate to exactly its pixels."""
    try:
        left = _png_passes(header)
        for block in _inflated(header.image):
            left = _take(left, memoryview(block))
        if left:
            raise DamagedError("it has too few pixels")
    except (zlib.error, DamagedError) as error:
        raise _damaged(label, error) from error


def _png_passes(header: Header) -> list[tuple[int, int]]:
    """Return the expected bytes of each pass of a PNG file, and of each of its rows."""
    colour, _, _, interlaced = header.image[25:29]
    pixel = PNG_CHANNELS[colour] * header.depth
    steps = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2)]
    passes = [*steps, (1, 2, 0, 1)] if interlaced else [(0, 1, 0, 1)]
    sizes = [
        (len(range(top, header.height, down)), len(range(left, header.width, across)))
        for top, down, left, across in passes
    ]
    filtered = [(rows, 1 + -(-wide * pixel // 8)) for rows, wide in sizes if rows and wide]
    return [(rows * row, row) for rows, row in filtered]


def _inflated(data: bytes) -> Iterator[bytes]:
    """Yield the filtered pixels of a PNG file in blocks."""
    inflate = zlib.decompressobj()
    for name, content, _ in png_chunks(data):
        rest = content.tobytes() if name == b"IDAT" else b""
        if rest and inflate.eof:
            raise DamagedError("it has too many pixels")
        while rest and not inflate.eof:
            yield inflate.decompress(rest, _BLOCK)
            rest = inflate.unconsumed_tail
    if not inflate.eof or inflate.unused_data:
        raise DamagedError("its pixel data are too short or too long")


def _take(left: list[tuple[int, int]], block: memoryview) -> list[tuple[int, int]]:
    """Subtract a block from the expected bytes; each row begins with its filter, 0 to 4."""
    while len(block):
        if not left:
            raise DamagedError("it has too many pixels")
        (bytes_, row), *later = left
        part = block[:bytes_]
        if max(part[bytes_ % row :: row], default=0) > 4:
            raise DamagedError("a row has an unknown filter")
        block = block[len(part) :]
        left = [(bytes_ - len(part), row), *later] if len(part) < bytes_ else later
    return left


@contextmanager
def _silenced() -> Iterator[None]:
    """Suppress OpenCV's messages about damaged files; our error reports them."""
    import cv2

    log = cv2.utils.logging
    with _LOG_LEVEL:
        level = log.getLogLevel()
        log.setLogLevel(log.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            log.setLogLevel(level)


def _check_size(found: tuple[int, ...], said: tuple[int, ...]) -> None:
    if found != said:
        raise DamagedError(f"its header declares {list(said)}, but it contains {list(found)}")


def _check_decoded(values: Values, size: tuple[int, int], label: str) -> None:
    """Raise `ImageError` if the decoded size differs from the declared one."""
    try:
        _check_size(values.shape[:2], size)
    except DamagedError as error:
        raise _damaged(label, error) from error


def _damaged(label: str, why: object) -> ImageError:
    return ImageError(f"{label} is damaged or truncated ({why}); copy it again")
