"""Bytes of pictures that cameras do not write: chunks of PNG, segments of JPEG, headers alone."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
SUFFIXES = (".jpg", ".png", ".bmp", ".webp", ".gif", ".tiff", ".npy")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def pixels_chunk(data: bytes) -> bytes:
    return chunk(b"IDAT", zlib.compress(data))


def encoded(suffix: str, rgb: np.ndarray, *options: int) -> bytes:
    """Encode uint8 RGB; .npy as it is."""
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, rgb)
        return buffer.getvalue()
    stored = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    done, data = cv2.imencode(suffix, np.ascontiguousarray(stored), list(options))
    assert done
    return data.tobytes()


def jpeg_of_size(data: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header says another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def tiff(width: int, height: int, *more: tuple[int, int], order: str = "<") -> bytes:
    """Return a TIFF file whose one strip of grey bytes is not there."""
    tags = sorted([(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), *more])
    body = struct.pack(f"{order}H", len(tags))
    body += b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    start = b"II" if order == "<" else b"MM"
    return start + struct.pack(f"{order}HI", 42, 8) + body + bytes(64)


def npy(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + b"\n" + data


def headers_of(width: int, height: int, rgb: np.ndarray) -> dict[str, bytes]:
    """Return files of all formats that say they have this size, and hold next to nothing."""
    bmp = bytearray(encoded(".bmp", rgb))
    bmp[18:26] = struct.pack("<ii", width, height)
    rle = bytearray(bmp)
    rle[30:34] = struct.pack("<I", 1)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    lossless = width - 1 & 0x3FFF | (height - 1 & 0x3FFF) << 14
    return {
        "png": png(width, height, pixels_chunk(b"\0"), bits=1),
        "png 16 bits": png(width, height, pixels_chunk(b"\0"), bits=16, colour=6),
        "jpeg": jpeg_of_size(encoded(".jpg", rgb), min(width, 65535), min(height, 65535)),
        "bmp": bytes(bmp),
        "bmp, packed": bytes(rle),
        "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I4x", 10) + size,
        "webp, lossless": b"RIFF"
        + struct.pack("<I", 40)
        + b"WEBPVP8L"
        + struct.pack("<IBI", 20, 0x2F, lossless)
        + bytes(40),
        "webp, lossy": b"RIFF"
        + struct.pack("<I", 40)
        + b"WEBPVP8 "
        + struct.pack("<I", 20)
        + b"\0\0\0\x9d\x01\x2a"
        + struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
        + bytes(40),
        "gif": b"GIF89a" + struct.pack("<HH", min(width, 65535), min(height, 65535)) + bytes(40),
        "tiff": tiff(width, height),
        "tiff, big-endian": tiff(width, height, order=">"),
        "npy": npy((height, width, 3)),
    }
