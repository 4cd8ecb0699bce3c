"""A planted detector: the score of a box is how red, green or blue its square is.

Places are those of grids of strides 8, 16 and 32 in a picture of 64 pixels, and a box is its place.
Only those of stride 16 can be sure, so that an object is a square of 16 pixels. A format is written
behind it by a few nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa

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


@pytest.fixture
def planted() -> type[Planted]:
    return Planted


def scene() -> np.ndarray:
    """Two squares on black."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, name in enumerate(CLASSES):
        if name in OBJECTS:
            left, top, right, bottom, level = OBJECTS[name]
            pixels[top:bottom, left:right, channel] = level
    return pixels


@pytest.fixture
def picture() -> np.ndarray:
    return scene()


Check = Callable[..., ibisa.Explainer]


@pytest.fixture
def check() -> Check:
    """See that a planted file's boxes are read, and that their maps fall on the squares."""

    def see(
        data: bytes,
        family: str,
        *,
        preprocessing: Any = "unit",
        labels: Sequence[str] | None = CLASSES,
        gradient: str = "exact",
        classes: Mapping[str, int] | None = None,
    ) -> ibisa.Explainer:
        explainer = ibisa.Explainer(
            data,
            preprocessing=preprocessing,
            overrides={"resize": "stretch"},
            labels=labels,
            threads=1,
            options=ibisa.Options(baseline="mean"),
        )
        assert explainer.kind.name == "detector"
        assert family in explainer.kind.reason
        answers = explainer.answers(scene())
        assert len(answers) == len(OBJECTS)
        found = explainer.explain_all(scene(), "all")
        for answer, (name, (*box, level)) in zip(answers, OBJECTS.items(), strict=True):
            index = CLASSES.index(name) if classes is None else classes[name]
            assert answer.index == index
            assert answer.score == pytest.approx(level / 255, abs=1e-3)
            assert answer.box == pytest.approx(box, abs=1e-2)
        for explanation, (*box, level) in zip(found, OBJECTS.values(), strict=True):
            left, top, right, bottom = box
            assert explanation.certificate.gradient == gradient
            assert explanation.target.probability == pytest.approx(level / 255, abs=1e-3)
            assert explanation.target.box == pytest.approx(box, abs=0.1)
            inside = explanation.map[top:bottom, left:right]
            assert inside.sum() > 0.6 * explanation.map.sum()
            assert inside.max() == explanation.map.max()
        return explainer

    return see
