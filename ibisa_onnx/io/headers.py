"""Reads the headers of image files before anything is decoded.

Each reader checks what a decoder would only find after allocating memory, and keeps only the parts
of the file with pixels: no profile, text, thumbnail or later frame reaches a decoder. `READERS`
lists all decoded formats; `decoding` interprets the pixels.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ibisa_onnx.errors import ImageError
from ibisa_onnx.io.tiff import Tags, read_directory
from ibisa_onnx.limits import Limits, variable

FORMATS = "JPEG, PNG, BMP, WebP, GIF, TIFF or .npy"
_LONGEST_SIDE = 1_000_000  # libpng's limit; the memory for resizing grows with a side too
_BUDGET = 5  # bytes that decoding may require per allowed pixel
_MOST_CHUNKS = 1 << 18
_ANEW = "save it again"
_MOST_SCANS = 100
_MOST_SCANNED = 1 << 31  # pixels, counted per scan

PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_READ = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
_PALETTE = 3
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PNG_CHANNELS: Mapping[int, int] = MappingProxyType({0: 1, 2: 3, 3: 1, 4: 2, 6: 4})
_SCAN, _END = 0xDA, 0xD9
_JPEG_END = bytes((0xFF, _END))
_FILLED = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # any number of fill bytes
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # within a scan's data
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # JPEG: starts of a frame
_JPEG_KEPT = frozenset({0xC4, 0xCC, _SCAN, 0xDB, 0xDD, 0xE0, 0xEE, *_FRAMES})

# TIFF 6.0, sections 8 and 18 to 20.
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _ROWS = 256, 257, 258, 262, 277, 278
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _SAMPLE_FORMAT = 322, 323, 338, 339
_ORIENTATION = 274
_FLOAT = 3
_ALPHA = (1, 2)


class DamagedError(Exception):
    """A file is truncated, inconsistent, or too expensive to decode; the text describes it."""

    def __init__(self, problem: str, advice: str = "copy it again") -> None:
        super().__init__(problem)
        self.advice = advice


@dataclass(frozen=True)
class Header:
    """An image file's header, and the bytes to decode.

    Attributes
    ----------
    format
        "JPEG", "PNG", "BMP", "WebP", "GIF" or "TIFF".
    width
        Width as stored.
    height
        Height as stored.
    image
        The file's bytes, without parts that have no pixels.
    unit
        Maximum bytes per pixel that decoding requires.
    depth
        Bits per value.
    orientation
        EXIF orientation, 1 to 8.
    for_tifffile
        Whether OpenCV would reject the TIFF file, or silently drop channels.
    fades
        Whether it is a JPEG whose data may end early.
    """

    format: str
    width: int
    height: int
    image: bytes
    unit: int = 4
    depth: int = 8
    orientation: int = 1
    for_tifffile: bool = False
    fades: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        upright = (self.height, self.width)
        return upright if self.orientation < 5 else upright[::-1]


def read_header(data: bytes, label: str, limits: Limits) -> Header:
    """Read an image file's header.

    Parameters
    ----------
    data
        The file's bytes; not a .npy file.
    label
        Name of the image in error messages.
    limits
        Limit on pixels; lower if decoding requires more than 5 bytes per pixel.

    Returns
    -------
    Header
        The header.

    Raises
    ------
    ImageError
        The format is not supported, the file is damaged, or it has too many pixels.
    """
    reader = next((each for start, each in READERS.items() if data.startswith(start)), None)
    refusal = f"{label} is damaged, or not a supported image ({FORMATS})"
    if reader is None:
        raise ImageError(refusal)
    try:
        header = reader(data)
    except DamagedError as error:
        raise ImageError(f"{label} is {error}; {error.advice}") from None
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ImageError(refusal) from error
    check_pixels((header.height, header.width), label, limits, header.unit)
    return header


def check_pixels(size: tuple[int, ...], label: str, limits: Limits, unit: int = 0) -> None:
    """Raise `ImageError` if an image of this height and width is empty, too long or too large.

    `unit` is the number of bytes per pixel that decoding requires.
    """
    height, width = size[:2]
    most = limits.pixels * _BUDGET // max(_BUDGET, unit)
    if height < 1 or width < 1:
        raise ImageError(f"{label} is empty ({width} x {height} pixels)")
    if max(height, width) > _LONGEST_SIDE:
        raise ImageError(
            f"{label} is {width} x {height} pixels; a side may have at most {_LONGEST_SIDE:,}, so "
            "cut it into parts"
        )
    if height * width > most:
        raise ImageError(
            f"{label} is {width} x {height}, {width * height:,} pixels, more than the limit of "
            f"{most:,} for its kind; set {variable('pixels')} above {limits.pixels:,} to allow more"
        )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview]]:
    """Yield the chunks of a PNG file: name, data, and all bytes.

    Raises
    ------
    DamagedError
        The file is truncated, or a chunk with pixels has a wrong checksum.
    """
    view, at = memoryview(data), len(PNG_START)
    for _ in range(_MOST_CHUNKS):
        length, name = struct.unpack(">I4s", view[at : at + 8].tobytes().ljust(8, b"\0"))
        whole = view[at : at + 12 + length]
        if len(whole) < 12 + length:
            raise DamagedError("a truncated PNG")
        if name in _PNG_READ and zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
            raise DamagedError(f"a damaged PNG: the checksum of its {name.decode()} chunk is wrong")
        yield name, whole[8:-4], whole
        if name == b"IEND":
            return
        at += 12 + length
    raise DamagedError(f"a PNG of more than {_MOST_CHUNKS:,} chunks", _ANEW)


def _read_png(data: bytes) -> Header:
    if data[8:16] != b"\0\0\0\rIHDR":
        raise ValueError("no header")
    width, height, depth, colour, method, filters, passes = struct.unpack_from(">IIBBBBB", data, 16)
    if depth not in _PNG_DEPTHS.get(colour, ()) or method or filters or passes > 1:
        raise ValueError("no such PNG")
    kept: list[bytes | memoryview] = [memoryview(data)[: len(PNG_START)]]
    orientation, names = 1, set[bytes]()
    for name, content, whole in png_chunks(data):
        if name not in _PNG_READ:
            if not name[0] & 0x20:
                raise ValueError("an unknown critical chunk")
            continue
        if name == b"IEND" and content:
            raise ValueError("its end has data")
        if name in names and name != b"IDAT":
            raise DamagedError(f"a damaged PNG: it has two {name.decode()} chunks")
        names.add(name)
        if name == b"eXIf":
            orientation = _exif_orientation(content.tobytes())
        elif name == b"tRNS":
            kept.extend(_transparency(whole, content, colour, depth))
        elif name != b"PLTE" or colour == _PALETTE:
            kept.append(whole)
    if b"IDAT" not in names or (colour == _PALETTE and b"PLTE" not in names):
        raise DamagedError("a damaged PNG: it has no pixels")
    unit = 4 * PNG_CHANNELS[colour] if depth == 16 else 4
    return Header("PNG", width, height, _joined(kept, data), unit, depth, orientation)


def _transparency(
    whole: memoryview, content: memoryview, colour: int, depth: int
) -> Iterator[bytes | memoryview]:
    """Yield the transparency chunk if it is valid.

    For grey of less than 8 bits, Pillow compares its value with pixels scaled to 8 bits.
    """
    value = content.tobytes()
    if len(value) != {0: 2, 2: 6, _PALETTE: min(max(len(value), 1), 256)}.get(colour):
        return
    if colour or depth == 8:
        yield whole
    elif depth < 8:  # OpenCV ignores it for more
        scaled = int.from_bytes(value, "big") * 255 // (2**depth - 1)
        named = b"tRNS" + min(scaled, 0xFFFF).to_bytes(2, "big")
        yield struct.pack(">I", 2) + named + struct.pack(">I", zlib.crc32(named))


def _joined(kept: list[bytes | memoryview], data: bytes) -> bytes:
    """Join the parts of a file; return the file itself if nothing was dropped."""
    own = all(isinstance(each, memoryview) for each in kept)
    return data if own and sum(map(len, kept)) == len(data) else b"".join(kept)


def _read_jpeg(data: bytes) -> Header:
    """Read the segments before the first scan; only the frame's has a size."""
    kept: list[bytes | memoryview] = [memoryview(data)[:2]]
    view, at, orientation, frames = memoryview(data), 2, None, list[tuple[int, memoryview]]()
    for _ in range(_MOST_CHUNKS):
        marker, at = _next_marker(data, at)
        (length,) = struct.unpack_from(">H", data, at)
        segment = view[at : at + length]
        if length < 2 or len(segment) < length:
            raise DamagedError("a truncated JPEG")
        if marker in _FRAMES:
            frames.append((marker, segment))
        if marker == 0xE1 and orientation is None and segment[2:8].tobytes() == b"Exif\0\0":
            orientation = _exif_orientation(segment[8:].tobytes())
        if marker in _JPEG_KEPT:
            kept += [view[at - 2 : at], segment]
        at += length
        if marker == _SCAN:
            break
    else:
        raise DamagedError("a JPEG of too many segments", _ANEW)
    scans, end = _scans(data, at)
    kept.append(view[at : end + len(_JPEG_END)])
    ((marker, frame),) = frames  # ValueError: none, or several
    bits, height, width, components = struct.unpack_from(">BHHB", frame, 2)
    samplings = [(each >> 4) * (each & 15) for each in frame[9::3]]
    if bits != 8 or len(samplings) != components or 0 in samplings:
        raise ValueError("no such JPEG")
    if scans * width * height > _MOST_SCANNED:
        raise DamagedError(f"a JPEG of {scans} scans of {width} x {height} pixels", _ANEW)
    # With several scans, all coefficients are held, 2 bytes each; large images matter here, and
    # these are mostly reduced.
    unit = 4 if scans == 1 else 2 + -(-2 * sum(samplings) // max(samplings))
    fades = scans == 1 and not _repeats(data[max(at, end - 42) : end - 2])
    return Header(
        "JPEG", width, height, _joined(kept, data), unit, 8, orientation or 1, fades=fades
    )


def _scans(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of scans from `at` on, and the position of the end marker."""
    count = 1
    for _ in range(_MOST_CHUNKS):
        if not (found := _MARKER.search(data, at)):
            raise DamagedError("a truncated JPEG")
        marker, at = found[1][0], found.end()
        if marker == _END:
            return count, at - len(_JPEG_END)
        count += marker == _SCAN
        if count > _MOST_SCANS:
            raise DamagedError(f"a JPEG of more than {_MOST_SCANS} scans", _ANEW)
        at += int.from_bytes(data[at : at + 2], "big")
    raise DamagedError("a JPEG of too many segments", _ANEW)


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Return the next marker of a JPEG file that has a length, and the position of the length."""
    if not (found := _FILLED.match(data, at)):
        raise ValueError("no marker")
    marker = found[1][0]
    if marker in (0x01, _END, 0xD8):
        raise ValueError("no marker before a scan")
    return marker, found.end()


def _repeats(data: bytes) -> bool:
    """Return whether the last bytes, except the padded one, repeat, as for a uniform area."""
    return len(data) < 40 or any(data[step:] == data[:-step] for step in range(1, 33))


def _read_gif(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("GIF", width, height, data)


def _read_bmp(data: bytes) -> Header:
    """Read a bitmap's header, of 12 bytes or of 16 or more."""
    start, size = struct.unpack_from("<I I", data, 10)
    compression = 0
    if size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, depth, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)
    row = (width * depth + 31) // 32 * 4
    if compression in (0, 3, 6) and width > 0 and len(data) < start + row * height - 3:
        raise DamagedError("a truncated BMP")
    return Header("BMP", width, height, data, 2 * max(3, depth // 8), depth)


def _read_webp(data: bytes) -> Header:
    """Read the header of a still image or of the canvas, and the EXIF orientation."""
    (length,) = struct.unpack_from("<I", data, 4)
    if data[8:12] != b"WEBP":
        raise ValueError("no WebP")
    if len(data) < length + 8:
        raise DamagedError("a truncated WebP")
    kind, channels, orientation = data[12:16], 4, 1
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            raise ValueError("no frame")
        width, height = (each & 0x3FFF for each in struct.unpack_from("<HH", data, 26))
        channels = 3
    elif kind == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        orientation = _webp_orientation(data)
        if data[20] & 0x02:  # several frames
            return Header("WebP", width, height, data, 12, orientation=orientation)
    else:
        raise ValueError("no image")
    return Header("WebP", width, height, data, 2 * channels, orientation=orientation)


def _exif_orientation(data: bytes) -> int:
    """Return the orientation in EXIF data, 1 to 8; 1 (as stored) if there is none."""
    return _orientation(read_directory(data.removeprefix(b"Exif\0\0")) or {})


def _orientation(tags: Tags) -> int:
    """Return the orientation among tags, 1 to 8; 1 if there is none."""
    found = tags.get(_ORIENTATION, (1,))[0]
    return found if 1 <= found <= 8 else 1


def _webp_orientation(data: bytes) -> int:
    at = 12
    for _ in range(_MOST_CHUNKS):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if not name:
            break
        if name == b"EXIF":
            return _exif_orientation(data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return 1


def _read_tiff(data: bytes) -> Header:
    """Read the first page of a TIFF or BigTIFF file."""
    tags = read_directory(data, (_WIDTH, _HEIGHT, _BITS, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT))
    if tags is None or _WIDTH not in tags or _HEIGHT not in tags:
        raise ValueError("no page")
    first = {tag: values[0] for tag, values in tags.items()}
    samples, bits = first.get(_SAMPLES, 1), max(tags.get(_BITS, (1,)))
    size = max(1, bits // 8)
    kind, grey = first.get(_SAMPLE_FORMAT, 1), first.get(_PHOTOMETRIC, 0) < 2
    extra = tags.get(_EXTRA, ())
    alpha = len(extra) == 1 and extra[0] in _ALPHA
    other = samples > (1 + alpha if grey else 4) or (kind == _FLOAT and bits == 16)
    # A tile or strip is decoded whole, to RGBA if it has 8 bits; a tile may exceed the image.
    width, height = first[_WIDTH], first[_HEIGHT]
    part = first.get(_TILE_WIDTH, width) * first.get(
        _TILE_HEIGHT, min(first.get(_ROWS, height), height)
    )
    unit = 2 * max(samples, 3 if size == 1 else 1) * size
    unit += max(4, samples * size) * part // max(1, width * height)
    turned = 1 if other else _orientation(tags)
    return Header("TIFF", width, height, data, unit, size * 8, turned, for_tifffile=other)


READERS: Mapping[bytes, Callable[[bytes], Header]] = MappingProxyType(
    {
        b"\xff\xd8\xff": _read_jpeg,
        PNG_START: _read_png,
        b"BM": _read_bmp,
        b"RIFF": _read_webp,
        b"GIF87a": _read_gif,
        b"GIF89a": _read_gif,
        b"II*\0": _read_tiff,
        b"II+\0": _read_tiff,
        b"MM\0*": _read_tiff,
        b"MM\0+": _read_tiff,
    }
)
"""Readers by the first bytes of a file."""
