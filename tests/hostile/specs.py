"""Files of settings: for `--preprocess`, and config.json beside the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile.base import encoded, graph, model
from hostile.case import Case
from hostile.metadata import DEEP, MANY, spoilt

_FAMILY = "specs"


def make() -> Iterator[Case]:
    for name, preprocessing in spoilt():
        yield _of(f"json-{name}", "s.json", json.dumps(preprocessing).encode())
    for name, content in _contents():
        for file in ("s.json", "s.toml", "config.json", "preprocessor_config.json"):
            yield _of(f"{file}-{name}", file, content)
    for name in ("pipe", "zero", "folder"):
        for file in ("s.json", "config.json"):
            yield _of(f"{file}-{name}", file, name)


def _of(name: str, file: str, content: bytes | str) -> Case:
    def build(folder: Path) -> tuple[str, ...]:
        made = model(graph(shape=("n", 3, "h", "w")))
        (folder / "m.onnx").write_bytes(made.SerializeToString())
        (folder / "p.png").write_bytes(encoded())
        path = folder / file
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "pipe":
            os.mkfifo(path)
        elif content == "zero":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        given = ("--preprocess", file) if file.startswith("s.") else ("--size", "16")
        return ("run", "m.onnx", "p.png", *given, "-o", "out/", "--threads", "1")

    return Case(_FAMILY, name, build)


def _contents() -> Iterator[tuple[str, bytes]]:
    contents: dict[str, Any] = {
        "empty": b"",
        "deep": DEEP.encode(),
        "deep-table": b'{"a":' * 50000 + b"1" + b"}" * 50000,
        "many": f'{{"size": {MANY}}}'.encode(),
        "many-toml": f"size = {MANY}".encode(),
        "deep-toml": b"a = " + DEEP.encode(),
        "dotted-toml": b"a" + b".a" * 20000 + b" = 1",
        "not-utf8": b"\xff\xfe{}",
        "list": b"[1, 2]",
        "crop": b'{"size": 16, "crop_size": [0], "do_center_crop": true}',
        "shortest": b'{"do_resize": true, "size": {"shortest_edge": 1000000000}}',
        "labels": b'{"id2label": {"\xc2\xb2": "a", "0": 3}}',
        "surrogate": b'{"id2label": {"0": "\\ud800", "1": "b"}, "size": 16}',
        "timm": b'{"pretrained_cfg": {"input_size": [3, 0, 0], "mean": "x", "crop_pct": 1e-9}}',
        "mean": b'{"image_mean": [1e400, null, "a"], "image_std": [0, 0, 0], "size": 16}',
        "nul": b'{"size": 16, "resize": "a\\u0000b\\u001b[2J\\nx"}',
    }
    yield from contents.items()
