"""The honest files that the cases spoil, and ways to spoil bytes."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES = 16, 5
RUN = ("run", "m.onnx", "p.png", "--preprocess", "unit", "-o", "out/", "--threads", "1")
INSPECT = ("inspect", "m.onnx", "p.png", "--preprocess", "unit", "--threads", "1")


def picture(height: int = SIDE, width: int = 24, channels: int = 3) -> np.ndarray:
    """Return uint8 [height, width, channels] with edges in it."""
    rows, columns = np.indices((height, width))
    planes = [(rows * (3 + k) + columns * (5 - k)) % 256 for k in range(channels)]
    image = np.stack(planes, axis=-1).astype(np.uint8)
    image[4:9, 6:12] = 230
    return image


@functools.cache
def encoded(suffix: str = ".png", channels: int = 3) -> bytes:
    """Return the bytes of an honest picture."""
    image = picture(channels=channels)
    return bytes(cv2.imencode(suffix, image[..., 0] if channels == 1 else image)[1].tobytes())


def graph(
    tail: list[onnx.NodeProto] | None = None,
    *,
    shape: tuple[Any, ...] = ("n", 3, SIDE, SIDE),
    outputs: list[tuple[str, int, list[Any]]] | None = None,
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    """Return a classifier: a convolution, ReLU, mean over the picture; `tail` goes on from `l`."""
    values = {
        "mix": np.random.default_rng(0).standard_normal((CLASSES, 3, 3, 3)).astype(np.float32),
        "rows": np.array([-1, CLASSES]),
    } | (constants or {})
    nodes = [
        helper.make_node("Conv", ["image", "mix"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Reshape", ["g", "rows"], ["l"], name="flatten"),
        *(tail or [helper.make_node("Identity", ["l"], ["y"], name="end")]),
    ]
    return helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(*each)
            for each in outputs or [("y", TensorProto.FLOAT, [shape[0], CLASSES])]
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )


def model(
    body: onnx.GraphProto | None = None,
    metadata: dict[str, str] | None = None,
    opset: int = 13,
    **more: Any,
) -> onnx.ModelProto:
    """Return a model of a graph, the small classifier where none is given."""
    made = helper.make_model(
        graph() if body is None else body,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("own", 1)],
        ir_version=8,
        **more,
    )
    helper.set_model_props(made, metadata or {})
    return made


def write(
    folder: Path,
    source: onnx.ModelProto | bytes | None = None,
    image: bytes | None = None,
) -> None:
    """Write m.onnx and p.png into a folder, honest where nothing else is given."""
    source = model() if source is None else source
    data = source if isinstance(source, bytes) else source.SerializeToString()
    (folder / "m.onnx").write_bytes(data)
    (folder / "p.png").write_bytes(encoded() if image is None else image)


def with_model(source: Callable[[], onnx.ModelProto | bytes], *words: str) -> Any:
    """Return what builds a case of a model."""

    def build(folder: Path) -> tuple[str, ...]:
        write(folder, source())
        return words or RUN

    return build


def with_file(name: str, content: bytes | Callable[[], bytes], *words: str) -> Any:
    """Return what builds a case of one more file beside the honest ones."""

    def build(folder: Path) -> tuple[str, ...]:
        write(folder)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        return words

    return build


def truncated(data: bytes, parts: int = 10) -> Iterator[tuple[str, bytes]]:
    """Yield the beginnings of some bytes."""
    for part in range(parts):
        yield f"cut-{part}", data[: len(data) * part // parts]


def flipped(data: bytes, count: int, most: int = 8) -> Iterator[tuple[str, bytes]]:
    """Yield bytes with some of them changed."""
    for seed in range(count):
        chance = random.Random(seed)
        changed = bytearray(data)
        for _ in range(chance.randint(1, most)):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        yield f"flip-{seed}", bytes(changed)


ODD_WORDS = (
    "",
    " ",
    "-1",
    "0",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "²",
    "٣",
    "9" * 5000,
    "99999999999999999999",
    "x" * 10000,
    "a\nibisa-onnx: error: forged",
    "\x1b[2J\x1b[31mred",
    "\u202egnp.exe",
    "\udcff",
    "../../outside/x",
    "/etc/passwd",
    "/dev/zero",
    "%s%n{0}",
    "1,2,3,4",
    "None",
)
"""Words in place of a flag's value."""
