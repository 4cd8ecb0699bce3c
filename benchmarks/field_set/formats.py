"""Planted detectors, in formats of which no package has a trained file.

The score of a box is how red, green or blue its square is. Places are those of grids of strides 8,
16 and 32 in a picture of 64 pixels, and a box is its place. Only those of stride 16 can be sure, so
that an object is a square of 16 pixels. A format is written behind it by a few nodes; the tests of
the decoders write theirs behind the same detector.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from field_set.rows import Row, kind_of, told_by

SIDE = 64
STRIDES = (8, 16, 32)
CLASSES = ("red", "green", "blue")
WEIGHTS = {8: 0.2, 16: 1.0, 32: 0.2}
OBJECTS = {"red": (32, 16, 48, 32, 230), "green": (0, 48, 16, 64, 180)}
"""Left, top, right, bottom and level."""


@dataclass
class Planted:
    """The nodes of a planted detector, to which a format adds its own.

    `scores` is [n, 3, A], a probability for each class and place; `zero` is [n, 1, A] of zeros, by
    which constants get the batch's axis.
    """

    strides: Sequence[int] = STRIDES
    anchors: int = 1
    opset: int = 13
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        parts = []
        for stride in self.strides:
            sides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
            means = self.op("AveragePool", "image", **sides)
            flat = self.op("Reshape", means, self.const([0, 3, -1], np.int64))
            inside = self.op("Clip", flat, self.const(0.0), self.const(1.0))
            parts.append(self.op("Mul", inside, self.const(WEIGHTS[stride])))
        scores = self.op("Concat", *parts, axis=2)
        self.places = np.concatenate([self._places(stride) for stride in self.strides])
        if self.anchors > 1:
            order = np.repeat(np.arange(len(self.places)), self.anchors)
            scores = self.op("Gather", scores, self.const(order, np.int64), axis=2)
            self.places = self.places[order]
        self.scores = scores
        first = self.op("Gather", scores, self.const([0], np.int64), axis=1)
        self.zero = self.op("Mul", first, self.const(0.0))

    def _places(self, stride: int) -> np.ndarray:
        """Column, row and stride, [A, 3]."""
        rows, columns = np.mgrid[: SIDE // stride, : SIDE // stride]
        return np.stack([columns, rows, np.full_like(rows, stride)], -1).reshape(-1, 3)

    @property
    def centres(self) -> np.ndarray:
        """[A, 2], x and y in pixels."""
        return (self.places[:, :2] + 0.5) * self.places[:, 2:]

    @property
    def sides(self) -> np.ndarray:
        """[A, 2] in pixels."""
        return np.repeat(self.places[:, 2:], 2, axis=1).astype(float)

    @property
    def corners(self) -> np.ndarray:
        """[A, 4]: left, top, right, bottom in pixels."""
        return np.concatenate([self.centres - self.sides / 2, self.centres + self.sides / 2], 1)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def fixed(self, table: np.ndarray) -> str:
        """A table [A, C] for each image, as [n, C, A]."""
        return self.op("Add", self.zero, self.const(table.T[None]))

    def turned(self, name: str) -> str:
        return self.op("Transpose", name, perm=[0, 2, 1])

    def model(
        self,
        outputs: Mapping[str, tuple[str, Sequence[int | str]]],
        metadata: Mapping[str, str] | None = None,
        batch: int | str = "n",
    ) -> bytes:
        """The file, whose outputs are tensors by name, with their shapes."""
        for name, (tensor, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name]))
        elems = {"labels": TensorProto.INT64, "count": TensorProto.INT32}
        graph = helper.make_graph(
            self.nodes,
            "planted",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])],
            [
                helper.make_tensor_value_info(name, elems.get(name, TensorProto.FLOAT), shape)
                for name, (_, shape) in outputs.items()
            ],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        helper.set_model_props(model, dict(metadata or {}))
        return model.SerializeToString()


def scene() -> np.ndarray:
    """Two squares on black."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, name in enumerate(CLASSES):
        if name in OBJECTS:
            left, top, right, bottom, level = OBJECTS[name]
            pixels[top:bottom, left:right, channel] = level
    return pixels


def _red(found: Planted) -> str:
    return found.op("Gather", found.scores, found.const([0], np.int64), axis=1)


def with_objectness(objectness: float = 1.0, share: float = 1.0) -> bytes:
    """YOLOv5's and v7's table: three anchors a place, centres and sides, an objectness."""
    found = Planted(anchors=3)
    boxes = found.fixed(np.concatenate([found.centres, found.sides], 1) * share)
    sure = found.op("Add", found.zero, found.const(objectness))
    table = found.turned(found.op("Concat", boxes, sure, found.scores, axis=1))
    return found.model({"output": (table, ["n", 252, 8])})


def selected_rows(order: str, shape: Sequence[int | str]) -> bytes:
    """Rows of columns by their letters: b(ox), s(core), c(lass) and n(umber of the image)."""
    found = Planted()
    fixed = {"c": np.zeros((84, 1)), "n": np.zeros((84, 1)), "b": found.corners}
    parts = [_red(found) if each == "s" else found.fixed(fixed[each]) for each in order]
    table = found.op("Concat", *parts, axis=1)
    rows = found.turned(found.op("Gather", table, found.const(np.arange(80), np.int64), axis=2))
    if len(shape) != 3:
        rows = found.op("Reshape", rows, found.const(shape, np.int64))
    batch = shape[0] if shape[0] == "n" else 1
    metadata = {"end2end": "True", "names": "{0: 'red', 1: 'green'}"}
    return found.model({"rows": (rows, shape)}, metadata, batch=batch)


def tensorflow() -> bytes:
    """What TensorFlow's Object Detection API serves: y first, in 0..1, and classes from 1."""
    found = Planted()
    boxes = found.turned(found.fixed(found.corners[:, [1, 0, 3, 2]] / SIDE))
    best = found.op("ReduceMax", found.scores, axes=[1], keepdims=0)
    which = found.op("ArgMax", found.scores, axis=1, keepdims=0)
    classes = found.op("Add", found.op("Cast", which, to=TensorProto.FLOAT), found.const(1.0))
    count = found.op("ReduceSum", found.zero, found.const([1, 2], np.int64), keepdims=0)
    return found.model(
        {
            "detection_boxes": (boxes, ["n", 84, 4]),
            "detection_scores": (best, ["n", 84]),
            "detection_classes": (classes, ["n", 84]),
            "num_detections": (found.op("Add", count, found.const(84.0)), ["n"]),
        }
    )


def _by_stride(
    found: Planted, tables: Mapping[str, str], anchors: int, batch: int | str
) -> dict[str, tuple[str, list[int | str]]]:
    """Tables [n, C, A] as an output [n, places, C] for each stride."""
    starts = np.cumsum([0, *(np.sum(found.places[:, 2] == each) for each in found.strides)])
    outputs: dict[str, tuple[str, list[int | str]]] = {}
    for kind, table in tables.items():
        for stride, (a, b) in zip(found.strides, itertools.pairwise(starts), strict=True):
            part = found.op("Gather", table, found.const(np.arange(a, b), np.int64), axis=2)
            shape = [batch, anchors * SIDE**2 // stride**2, 4 if kind == "bbox" else 1]
            outputs[f"{kind}_{stride}"] = (found.turned(part), shape)
    return outputs


def yunet() -> bytes:
    """YuNet: a score is the root of class times objectness, a box lies about its place's middle."""
    found = Planted()
    tables = {
        "cls": found.op("Mul", _red(found), _red(found)),
        "obj": found.op("Add", found.zero, found.const(1.0)),
        "bbox": found.fixed(np.repeat([[0.5, 0.5, 0.0, 0.0]], 84, axis=0)),
    }
    return found.model(_by_stride(found, tables, 1, "n"))


def scrfd(anchors: int = 2) -> bytes:
    """SCRFD: a box is its place's corner less and plus the distances."""
    found = Planted(anchors=anchors)
    distances = np.repeat([[0.0, 0.0, 1.0, 1.0]], len(found.places), axis=0)
    tables = {"score": _red(found), "bbox": found.fixed(distances)}
    return found.model(_by_stride(found, tables, anchors, 1), batch=1)


FORMATS: Mapping[str, Callable[[], bytes]] = {
    "YOLOv5, YOLOv7: objectness, [N, A, 5 + K]": with_objectness,
    "selected rows [N, n, 6]": lambda: selected_rows("bsc", ("n", 80, 6)),
    "selected rows [n, 7], the image first": lambda: selected_rows("nbcs", (80, 7)),
    "Caffe's SSD, rows [1, 1, n, 7]": lambda: selected_rows("ncsb", (1, 1, 80, 7)),
    "TensorFlow's Object Detection API": tensorflow,
    "SCRFD": scrfd,
    "YuNet": yunet,
}
"""By what the table calls them."""


def planted_row(name: str) -> Row:
    """Explain the surest box of a planted detector, by all that it may be asked."""
    start = time.perf_counter()
    explainer = ibisa.Explainer(
        FORMATS[name](),
        preprocessing="unit",
        overrides={"resize": "stretch"},
        options=ibisa.Options(baseline="mean"),
    )
    pixels = scene()
    found = explainer.explain(pixels)
    left, top, right, bottom, _ = OBJECTS["red"]
    share = float(found.map[top:bottom, left:right].sum() / found.map.sum())
    return Row(
        family=explainer.kind.family,
        model=name,
        kind=kind_of(explainer),
        answers=len(explainer.answers(pixels)),
        where=f"{share:.2f} of the map in the square of the box",
        seconds=time.perf_counter() - start,
        **told_by(found),
    )
