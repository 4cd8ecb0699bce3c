"""Pictures: bombs, damaged files, other formats, and names that are no files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hostile.base import RUN, encoded, flipped, picture, truncated, write
from hostile.case import Case, Expected

_FAMILY = "pictures"
_FORMATS = (".png", ".jpg", ".bmp", ".webp", ".tif")


def make() -> Iterator[Case]:
    for suffix in _FORMATS:
        honest = encoded(suffix)
        yield _of(f"honest{suffix}", honest, "explained")
        for name, data in truncated(honest):
            yield _of(f"{name}{suffix}", data, "either" if suffix == ".bmp" else "refused")
        for name, data in flipped(honest, 12):
            yield _of(f"{name}{suffix}", data)
    for name, data in _bombs().items():
        yield _of(f"bomb-{name}", data, "refused")
    for name, content in _odd().items():
        yield _of(name, content)
    for name, content in _refused().items():
        yield _of(name, content, "refused")
    for name, make_file in _no_files().items():
        yield Case(_FAMILY, name, _named(make_file), "refused")


def _of(name: str, data: bytes | Callable[[], bytes], expected: Expected = "either") -> Case:
    def build(folder: Path) -> tuple[str, ...]:
        write(folder, image=data if isinstance(data, bytes) else data())
        return RUN

    return Case(_FAMILY, name, build, expected)


def _named(make_file: Callable[[Path], object]) -> Callable[[Path], tuple[str, ...]]:
    def build(folder: Path) -> tuple[str, ...]:
        write(folder)
        path = folder / "p.png"
        path.unlink()
        make_file(path)
        return RUN

    return build


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, *chunks: bytes) -> bytes:
    """Return a PNG file of some size with nothing or something in it."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *chunks, chunk(b"IEND", b"")])


def _zeros(count: int) -> bytes:
    """Return so many zero bytes, deflated, a mebibyte at a time."""
    deflate, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [deflate.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, deflate.compress(bytes(count % (1 << 20))), deflate.flush()])


def _bit_bomb(side: int) -> Callable[[], bytes]:
    return lambda: png(side, side, 1, 0, chunk(b"IDAT", _zeros(side * (side // 8 + 1))))


def _patched(suffix: str, at: int, size: bytes) -> bytes:
    data = bytearray(encoded(suffix))
    data[at : at + len(size)] = size
    return bytes(data)


def _jpeg(width: int, height: int) -> bytes:
    data = encoded(".jpg")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _bombs() -> dict[str, Any]:
    side = 40000
    return {
        "png-16000": _bit_bomb(16000),
        "png-24000": _bit_bomb(24000),
        "png-header": png(2**31 - 1, 2**31 - 1, 8, 6, chunk(b"IDAT", b"")),
        "png-thin": lambda: png(1, 10**8, 1, 0, chunk(b"IDAT", _zeros(2 * 10**8))),
        "png-wide": png(2**31 - 1, 1, 8, 2, chunk(b"IDAT", zlib.compress(b""))),
        "png-rgba16": png(20000, 20000, 16, 6, chunk(b"IDAT", zlib.compress(b"\0" * 99))),
        "jpg": _jpeg(65000, 65000),
        "bmp": _patched(".bmp", 18, struct.pack("<ii", side, side)),
        "bmp-negative": _patched(".bmp", 18, struct.pack("<ii", side, -side)),
        "bmp-least": _patched(".bmp", 18, struct.pack("<ii", -(2**31), -(2**31))),
        "webp": b"RIFF"
        + struct.pack("<I", 30)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\0\0\0\0"
        + b"\xff\xff\xff" * 2,
        "tif": _tiff(side, side),
        "tif-float": _tiff(side, side, bits=32, kind=3),
        "gif": b"GIF89a" + struct.pack("<HH", 65000, 65000) + b"\x80\0\0" + b"\0" * 40 + b";",
        "npy": _npy((10**6, 10**6, 3)),
        "pnm": b"P6\n60000 60000\n255\n",
    }


def _tiff(width: int, height: int, bits: int = 8, kind: int = 1) -> bytes:
    """Return a TIFF file that says it has one strip of grey pixels."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, height), (279, width * height * bits // 8 % 2**32), (339, kind)]
    body = struct.pack("<H", len(tags))
    body += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + body + b"\0\0\0\0"


def _npy(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + b"\n" + data


def _text_chunks() -> bytes:
    """Return an honest picture with a megabyte of text, a broken profile and a wrong gamma."""
    data = encoded()
    extra = chunk(b"zTXt", b"a\0\0" + _zeros(200 << 20)) + chunk(b"iCCP", b"x\0\0broken")
    extra += chunk(b"gAMA", b"\0\0\0\0") + chunk(b"tEXt", b"key\0" + b"\x1b[2J" * 1000)
    return data[:33] + extra + data[33:]


def _odd() -> dict[str, Any]:
    data = encoded()
    sixteen = picture().astype(np.uint16) * 257
    return {
        "png-text-bomb": _text_chunks,
        "png-bad-crc": data[:40] + bytes([data[40] ^ 1]) + data[41:],
        "png-two-headers": data[:33] + data[8:],
        "png-trailing": data + b"\0" * 100000,
        "png-one-pixel": png(1, 1, 8, 0, chunk(b"IDAT", zlib.compress(b"\0\1"))),
        "png-palette-short": png(
            8,
            8,
            8,
            3,
            chunk(b"PLTE", b"\0\0\0"),
            chunk(b"IDAT", zlib.compress(b"\0" + b"\xff" * 8)),
        ),
        "png-too-much": png(2, 2, 8, 0, chunk(b"IDAT", zlib.compress(b"\0" * 10000))),
        "png-16": bytes(cv2.imencode(".png", sixteen)[1].tobytes()),
        "jpg-no-scan": encoded(".jpg")[: encoded(".jpg").index(b"\xff\xda")] + b"\xff\xd9",
        "jpg-comment": encoded(".jpg")[:2]
        + b"\xff\xfe\xff\xff"
        + b"\x1b" * 65533
        + encoded(".jpg")[2:],
        "jpg-exif": encoded(".jpg")[:2]
        + b"\xff\xe1\x00\x20Exif\0\0II*\0\xff\xff\xff\xff"
        + b"\xff" * 16
        + encoded(".jpg")[2:],
        "jpg-empty-marker": b"\xff\xd8\xff\xd9",
        "npy-nan": _npy((4, 4, 3), "<f4", np.full(48, np.nan, np.float32).tobytes()),
        "npy-huge": _npy((4, 4, 3), "<f8", np.full(48, 1e308).tobytes()),
        "npy-flat": _npy((4, 4, 3), "<f4", np.full(48, 0.5, np.float32).tobytes()),
        "npy-empty": _npy((0, 0, 3)),
        "npy-bool": _npy((16, 24), "|b1", b"\1" * 384),
        "npy-int64": _npy((16, 24), "<i8", b"\1" * 384 * 8),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
    }


def _refused() -> dict[str, Any]:
    return {
        "empty": b"",
        "text": b"not a picture\n",
        "zeros": bytes(5000),
        "exr": b"\x76\x2f\x31\x01" + bytes(100),
        "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n",
        "jp2": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(200),
        "j2k": b"\xff\x4f\xff\x51" + bytes(200),
        "avif": b"\x00\x00\x00\x20ftypavif" + bytes(100),
        "sun": b"\x59\xa6\x6a\x95" + struct.pack(">7I", 60000, 60000, 24, 0, 1, 0, 0),
        "npy-object": _npy((4, 4, 3), "|O", b"\x80\x04."),
        "npy-text": _npy((4, 4), "<U4", bytes(256)),
        "npy-complex": _npy((4, 4), "<c8", bytes(128)),
        "npy-short": _npy((16, 24, 3), "|u1", b"\1\2"),
        "npy-negative": _npy((-4, 4, 3), "|u1", bytes(48)),
        "npy-header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{",
        "npy-nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000,
        "zip": b"PK\x03\x04" + bytes(100),
        "pickle": b"\x80\x04\x95" + bytes(50),
        "pdf": b"%PDF-1.7\n",
    }


def _no_files() -> dict[str, Callable[[Path], object]]:
    return {
        "pipe": lambda path: os.mkfifo(path),
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "null": lambda path: path.symlink_to("/dev/null"),
        "loop": lambda path: path.symlink_to(path),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "memory": lambda path: path.symlink_to("/proc/self/mem"),
        "hole": lambda path: _hole(path),
        "folder-of-none": lambda path: path.mkdir(),
    }


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.write(encoded())
        file.truncate(1 << 40)
