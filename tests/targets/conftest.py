"""Planted models that several files test with, and pictures for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ibisa_onnx as ibisa
from ibisa_onnx.targets.facts import ModelFacts


class Squares:
    """Models of pictures of 32 pixels whose values are the brightness of two squares."""

    SIDE = 32
    PLACES = ((4, 4), (20, 18))
    """Top and left of each, of 8 pixels a side."""
    UNIT = ibisa.Preprocessing((SIDE, SIDE), resize="stretch", scale=1 / 255)

    @classmethod
    def model(
        cls,
        nodes: list[onnx.NodeProto],
        outputs: dict[str, list[Any]],
        constants: dict[str, Any],
        inputs: tuple[str, ...] = ("image",),
        elems: dict[str, int] | None = None,
        **metadata: str,
    ) -> bytes:
        """A model of pictures float32 [n, 3, 32, 32]; outputs are float32 unless `elems` say."""

        def tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
            elem = (elems or {}).get(name, TensorProto.FLOAT)
            return helper.make_tensor_value_info(name, elem, shape)

        graph = helper.make_graph(
            nodes,
            "model",
            [tensor(name, ["n", 3, cls.SIDE, cls.SIDE]) for name in inputs],
            [tensor(*each) for each in outputs.items()],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        imports = [helper.make_opsetid("", 11)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        helper.set_model_props(model, metadata)
        return bytes(model.SerializeToString())

    @classmethod
    def weights(cls, *columns: tuple[float, float]) -> np.ndarray:
        """Weights [K, 3072]: how much the brightness of each square counts."""
        weights = np.zeros((len(columns), 3, cls.SIDE, cls.SIDE), np.float32)
        for row, column in zip(weights, columns, strict=True):
            for (y, x), weight in zip(cls.PLACES, column, strict=True):
                row[:, y : y + 8, x : x + 8] = weight / 192
        return weights.reshape(len(columns), -1)

    @classmethod
    def regression(
        cls, *columns: tuple[float, float], name: str = "age", bias: float = 20, **metadata: str
    ) -> bytes:
        """20 + the weighted brightness of both squares, [n, K]."""
        nodes = [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], [name], transB=1),
        ]
        constants = {"w": cls.weights(*columns), "b": np.full(len(columns), bias, np.float32)}
        return cls.model(nodes, {name: ["n", len(columns)]}, constants, **metadata)

    @classmethod
    def head(cls, operator: str, outputs: dict[str, int]) -> bytes:
        """Outputs [n, K] by name, the last of them behind an operator."""
        nodes, constants = [helper.make_node("Flatten", ["image"], ["flat"])], {}
        for name, classes in outputs.items():
            constants[f"w_{name}"] = cls.weights(*[(1.0, 2.0)] * classes)
            nodes.append(helper.make_node("Gemm", ["flat", f"w_{name}"], [f"{name}_s"], transB=1))
            last = name == list(outputs)[-1]
            nodes.append(helper.make_node(operator if last else "Identity", [f"{name}_s"], [name]))
        shapes: dict[str, list[Any]] = {name: ["n", count] for name, count in outputs.items()}
        return cls.model(nodes, shapes, constants)

    @classmethod
    def depth(cls, name: str = "depth") -> bytes:
        """The mean brightness of each 4 x 4 pixels, [n, 1, 8, 8]."""
        kernel = np.full((1, 3, 4, 4), 1 / 48, np.float32)
        nodes = [helper.make_node("Conv", ["image", "kernel"], [name], strides=[4, 4])]
        return cls.model(nodes, {name: ["n", 1, 8, 8]}, {"kernel": kernel})

    @classmethod
    def opened(cls, model: bytes, **options: Any) -> ibisa.Explainer:
        options = {"preprocessing": cls.UNIT, "threads": 1, "cache": False, **options}
        return ibisa.Explainer(model, **options)

    @classmethod
    def facts(cls, model: bytes) -> ModelFacts:
        return ModelFacts(cls.opened(model).model, cls.UNIT)

    @classmethod
    def picture(cls, *levels: int) -> np.ndarray:
        """A dark picture with squares of those levels."""
        pixels = np.full((cls.SIDE, cls.SIDE, 3), 60, np.uint8)
        for (y, x), level in zip(cls.PLACES, levels, strict=True):
            pixels[y : y + 8, x : x + 8] = level
        return pixels

    @classmethod
    def share(cls, found: ibisa.Explanation, square: int) -> float:
        """The share of a map that is on a square."""
        y, x = cls.PLACES[square]
        return float(found.map[y : y + 8, x : x + 8].sum() / found.map.sum())


@pytest.fixture(scope="session")
def squares() -> type[Squares]:
    return Squares


@pytest.fixture(scope="session")
def with_nan() -> Callable[..., bytes]:
    """Make an output of a file NaN: for every picture, or for a black one alone."""

    def changed(data: bytes, output: str, *, always: bool = False) -> bytes:
        model = onnx.load_from_string(data)
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [f"{name}_before" if name == output else name for name in names]
        mean = helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0)
        factor = numpy_helper.from_array(np.float32(np.nan if always else 0), "factor")
        model.graph.initializer.append(factor)
        model.graph.node.extend(
            [
                mean,
                helper.make_node("Log", ["mean"], ["log"]),  # -inf, and 0 times that is NaN
                helper.make_node("Mul", ["log", "factor"], ["added"]),
                helper.make_node("Add", [f"{output}_before", "added"], [output]),
            ]
        )
        return bytes(model.SerializeToString())

    return changed


class Segmented:
    """Segmenters of pictures of 32 pixels, in which a red and a green square are."""

    SIDE = 32
    RED, GREEN = (slice(4, 14), slice(3, 15)), (slice(20, 28), slice(16, 30))
    NAMES = ("background", "red", "green")

    @classmethod
    def model(
        cls, classes: int = 3, stride: int = 1, labels: tuple[str, ...] = (), least: float = -6.0
    ) -> bytes:
        """`scores` [n, classes, h, w]: of class 1 and 2 how red and how green a place is.

        Class 0 has the same score everywhere. Of one class it is how red it is, `least` or more.
        """
        gain = 12.0
        kernel = np.zeros((classes, 3, 3, 3), np.float32)
        first = 0 if classes == 1 else 1
        kernel[first, 0] = kernel[first + 1 : first + 2, 1] = gain / 9
        bias = np.full(classes, -gain, np.float32)
        bias[0], bias[1:3] = least if classes == 1 else gain / 2, 0
        nodes = [
            helper.make_node("Conv", ["image", "kernel", "bias"], ["fine"], pads=[1, 1, 1, 1]),
            helper.make_node(
                *("AveragePool", ["fine"], ["scores"]),
                kernel_shape=[stride, stride],
                strides=[stride, stride],
            ),
        ]
        shapes = (["n", 3, cls.SIDE, cls.SIDE], ["n", classes, *[cls.SIDE // stride] * 2])
        image, scores = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(("image", "scores"), shapes, strict=True)
        )
        constants = [numpy_helper.from_array(kernel, "kernel")]
        constants.append(numpy_helper.from_array(bias, "bias"))
        graph = helper.make_graph(nodes, "segmenter", [image], [scores], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        if labels:
            helper.set_model_props(model, {"names": repr(list(labels))})
        return bytes(model.SerializeToString())

    @classmethod
    def picture(cls, red: int = 255, green: int = 255) -> np.ndarray:
        """A black picture with a red and a green square."""
        pixels = np.zeros((cls.SIDE, cls.SIDE, 3), np.uint8)
        pixels[cls.RED][..., 0] = red
        pixels[cls.GREEN][..., 1] = green
        return pixels

    @classmethod
    def opened(cls, data: bytes, **settings: Any) -> ibisa.Explainer:
        settings = {"preprocessing": "unit", "threads": 1, **settings}
        return ibisa.Explainer(data, options=ibisa.Options(baseline="mean", grid=16), **settings)

    @staticmethod
    def on(found: ibisa.Explanation, square: tuple[slice, slice]) -> float:
        """The share of a map that is on a square, or next to it."""
        rows, columns = (slice(each.start - 1, each.stop + 1) for each in square)
        return float(found.map[rows, columns].sum() / found.map.sum())


@pytest.fixture(scope="session")
def segmented() -> type[Segmented]:
    return Segmented
