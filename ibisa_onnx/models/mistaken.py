"""Recognises files that are not ONNX models: images, text, Git LFS pointers, archives."""

from __future__ import annotations

import re

from ibisa_onnx.io.files import GIT_LFS, GIT_LFS_ADVICE

MOST = 512
"""Number of bytes at the start of a file that are enough to recognise it."""
_IMAGES = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n"),
    ("GIF", rb"GIF8"),
    ("WebP", rb"RIFF.{4}WEBP"),
    ("TIFF", rb"II\*\0|MM\0\*"),
    ("BMP", rb"BM.{8}"),
)
_TEXT = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")


def describe_mistaken(start: bytes) -> str:
    """Return what a file that is not an ONNX model is instead, and what to do.

    Parameters
    ----------
    start
        At least its first 512 bytes, or all.
    """
    start = start[:MOST]
    if start.startswith(GIT_LFS):
        return f"a Git LFS pointer, not an ONNX model; {GIT_LFS_ADVICE}"
    for name, mark in _IMAGES:
        if re.match(mark, start, re.DOTALL):
            return f"a {name} image, not an ONNX model; pass the model first, then the image"
    if start.startswith(b"PK\x03\x04"):
        return "a ZIP archive, such as a PyTorch checkpoint, not an ONNX model; export it to ONNX"
    if _is_text(start):
        return "a text file, not an ONNX model; pass the .onnx file"
    return "not an ONNX model, or is truncated; copy or export it again"


def _is_text(start: bytes) -> bool:
    """Return whether bytes are UTF-8 without control characters; the last may be incomplete."""
    text = start.decode(errors="replace")
    if len(start) == MOST:
        text = text.rstrip("\ufffd")
    return "\ufffd" not in text and _TEXT.fullmatch(text) is not None
