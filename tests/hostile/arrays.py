"""Arrays by `--extra-input`, `--like` and as maps for `eval`."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from hostile.base import CLASSES, encoded, graph, model, truncated, write
from hostile.case import PAYLOAD, Case
from hostile.pictures import _npy

_FAMILY = "arrays"


class Payload:
    """What would make a file where it is unpickled."""

    def __reduce__(self) -> Any:
        return open, (PAYLOAD, "w")


def make() -> Iterator[Case]:
    for use in ("extra", "map"):
        for name, data in _contents():
            refused = name != "honest" and not name.startswith("perhaps")
            expected = "refused" if refused else "either"
            yield Case(_FAMILY, f"{use}-{name}", _build(use, data), expected)


def _contents() -> Iterator[tuple[str, bytes | None]]:
    honest = io.BytesIO()
    np.save(honest, np.random.default_rng(0).random((16, 24), np.float32))
    yield "honest", honest.getvalue()
    yield from truncated(honest.getvalue(), 6)
    archive = io.BytesIO()
    np.savez(archive, a=np.ones(3))
    yield "npz", archive.getvalue()
    yield "text", b"1,2,3\n"
    yield "png", encoded()
    yield "pickle", pickle.dumps(Payload())
    yield "object", _npy((1,), "|O", pickle.dumps(Payload()))
    yield "huge", _npy((10**9, 10**9), "<f8")
    yield "overflow", _npy((2**63, 2**63), "<f8")
    yield "structured", _npy((2,), "|V8", bytes(16))
    yield "complex", _npy((16, 24), "<c16", bytes(16 * 24 * 16))
    yield "string", _npy((16, 24), "<U2", bytes(16 * 24 * 8))
    yield "nan", _npy((16, 24), "<f4", np.full(384, np.nan, np.float32).tobytes())
    yield "perhaps-bool", _npy((16, 24), "|b1", bytes(384))
    yield "perhaps-zero", _npy((16, 24), "<f4", bytes(384 * 4))
    yield "pipe", None
    with zipfile.ZipFile(bomb := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", _npy((10**7,), "|u1", bytes(10**7)))
    yield "zip-bomb", bomb.getvalue()


def _build(use: str, data: bytes | None) -> Any:
    def build(folder: Path) -> tuple[str, ...]:
        tail = [helper.make_node("Add", ["l", "bias"], ["y"])]
        body = graph(tail)
        if use == "extra":
            body.input.append(
                helper.make_tensor_value_info("bias", TensorProto.FLOAT, [1, CLASSES])
            )
        write(folder, model(body) if use == "extra" else None)
        if data is None:
            os.mkfifo(folder / "a.npy")
        else:
            (folder / "a.npy").write_bytes(data)
        if use == "extra":
            return (
                *("run", "m.onnx", "p.png", "--preprocess", "unit", "-o", "out/"),
                *("--extra-input", "bias=a.npy"),
            )
        return ("eval", "m.onnx", "p.png", "a.npy", "--preprocess", "unit")

    return build
