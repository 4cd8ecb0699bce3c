"""Surrogates: archives that would run code when torch reads them, and files that are none."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile.arrays import Payload
from hostile.base import RUN, encoded, graph, model, write
from hostile.case import Case

_FAMILY = "surrogates"


def make() -> Iterator[Case]:
    for name, content in _contents().items():
        for file in ("s.pt2", "s.onnx"):
            words = (*RUN, "--gradient", "surrogate", "--surrogate", file)
            yield Case(_FAMILY, f"{file}-{name}", _build(file, content, words), "refused")
        words = ("export", "s.pt2", "-o", "e.onnx")
        yield Case(_FAMILY, f"export-{name}", _build("s.pt2", content, words), "refused")


def _build(file: str, content: bytes | Callable[[Path], object], words: tuple[str, ...]):
    def build(folder: Path) -> tuple[str, ...]:
        write(folder)
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
        else:
            content(folder / file)
        return words

    return build


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(f"s/{name}", data)
    return buffer.getvalue()


def _contents() -> dict[str, bytes | Callable[[Path], object]]:
    code = pickle.dumps(Payload())
    common = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
    return {
        "pickle": code,
        "sample-inputs": _archive(common | {"data/sample_inputs/model.pt": code}),
        "weights": _archive(common | {"data/weights/model.pt": code, "models/model.json": b"{}"}),
        "constants": _archive(common | {"data/constants/model.pt": code}),
        "legacy": _archive(
            {
                "serialized_exported_program.json": b"{}",
                "version": b"1.1",
                "serialized_constants.pt": code,
                "serialized_state_dict.pt": code,
            }
        ),
        "torchscript": _archive({"data.pkl": code, "version": b"3", "constants.pkl": code}),
        "empty": b"",
        "text": b"x",
        "picture": encoded(),
        "pipe": lambda path: os.mkfifo(path),
        "zero": lambda path: path.symlink_to("/dev/zero"),
        "folder": lambda path: path.mkdir(),
        "other-shape": model(graph(shape=("n", 1, 4, 4))).SerializeToString(),
    }
