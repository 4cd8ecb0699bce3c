"""Files of labels, in text, JSON and CSV."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from hostile.base import RUN, write
from hostile.case import Case
from hostile.metadata import DEEP, MANY

_FAMILY = "labels"


def make() -> Iterator[Case]:
    for name, content in _contents():
        for suffix in (".txt", ".json", ".csv"):
            yield Case(_FAMILY, f"{name}{suffix}", _build(suffix, content))
    for kind in ("pipe", "zero", "folder", "hole"):
        yield Case(_FAMILY, kind, _build(".txt", kind), "refused")


def _build(suffix: str, content: bytes | str):
    def build(folder: Path) -> tuple[str, ...]:
        write(folder)
        path = folder / f"l{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "pipe":
            os.mkfifo(path)
        elif content == "zero":
            path.symlink_to("/dev/zero")
        elif content == "folder":
            path.mkdir()
        else:
            with path.open("wb") as file:
                file.truncate(1 << 40)
        return (*RUN, "--labels", path.name, "--with-data")

    return build


def _contents() -> Iterator[tuple[str, bytes]]:
    five = ["cat\x1b[2J", "dog\nibisa-onnx: error: forged", "\u202egnp", "a\0b", "\u2028"]
    contents = {
        "escapes": json.dumps(five).encode(),
        "surrogates": json.dumps(["\ud800", "\udfff", "a", "b", "c"]).encode(),
        "raw": b"\xff\xfe\xfd\n" * 5,
        "squared": "²,a\n1,b\n2,c\n3,d\n4,e\n".encode(),
        "many": f"{MANY},a\n1,b\n".encode(),
        "many-json": f'{{"{MANY}": "a", "1": "b"}}'.encode(),
        "number": b"[" + MANY.encode() + b"]",
        "deep": DEEP.encode(),
        "negative": b'{"-1": "a"}',
        "numbers": b"[0, 1, 2, 3, 4]",
        "nulls": b"[null, null, null, null, null]",
        "long": json.dumps(["x" * 10**6] * 5).encode(),
        "lines": b"\n" * 10**6,
        "quotes": b'"' * 10**5,
        "empty": b"",
        "same": b"a\na\na\na\na\n",
        "slashes": b"../../outside/a\n/etc/passwd\n..\n.\nCON\n",
    }
    yield from contents.items()
